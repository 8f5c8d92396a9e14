//! Progress of a run: a bar on a terminal, plain lines elsewhere, or nothing.

use crate::model::hub::Watch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where progress goes.
pub struct Progress {
    kind: Kind,
}

enum Kind {
    Silent,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

struct Lines {
    started: Instant,
    last: Instant,
    total: u64,
    done: u64,
}

/// Time between plain lines.
const EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// No progress is shown.
    pub fn silent() -> Self {
        Self { kind: Kind::Silent }
    }

    /// A bar if stderr is a terminal, plain lines otherwise.
    pub fn stderr() -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = "{bar:30} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            return Self { kind: Kind::Bar(bar) };
        }
        let now = Instant::now();
        Self { kind: Kind::Lines(Mutex::new(Lines { started: now, last: now, total: 0, done: 0 })) }
    }

    /// Sets the number of bytes to come.
    pub(super) fn begin(&self, total: u64) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => bar.set_length(total),
            Kind::Lines(lines) => {
                if let Ok(mut lines) = lines.lock() {
                    lines.total = total;
                }
            }
        }
    }

    /// Adds bytes that are written.
    pub(super) fn advance(&self, bytes: u64) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => bar.inc(bytes),
            Kind::Lines(lines) => {
                if let Ok(mut lines) = lines.lock() {
                    lines.done += bytes;
                    if lines.last.elapsed() >= EVERY {
                        lines.print();
                    }
                }
            }
        }
    }

    /// Says in words how far something is that is not counted in bytes: above the bar, or a line now
    /// and then.
    pub(crate) fn line(&self, text: &str) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => bar.println(text),
            Kind::Lines(lines) => {
                if let Ok(mut lines) = lines.lock()
                    && lines.last.elapsed() >= EVERY
                {
                    let _ = writeln!(std::io::stderr(), "{text}");
                    lines.last = Instant::now();
                }
            }
        }
    }

    /// Clears the bar.
    pub(super) fn end(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

/// Downloads are shown like merges, each below a line that says what it is.
impl Watch for Progress {
    fn begin(&self, what: &str, bytes: u64) {
        let line = format!("{what}, {}", crate::plan::bytes(bytes));
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => {
                bar.reset();
                bar.println(line);
            }
            Kind::Lines(lines) => {
                let _ = writeln!(std::io::stderr(), "{line}");
                if let Ok(mut lines) = lines.lock() {
                    let now = Instant::now();
                    *lines = Lines { started: now, last: now, total: 0, done: 0 };
                }
            }
        }
        Self::begin(self, bytes);
    }

    fn advance(&self, bytes: u64) {
        Self::advance(self, bytes);
    }

    fn end(&self) {
        Self::end(self);
    }
}

impl Lines {
    fn print(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.done as f64 / seconds;
        let left = self.total.saturating_sub(self.done) as f64 / rate.max(1.0);
        let percent = 100.0 * self.done as f64 / self.total.max(1) as f64;
        let text = |bytes: f64| crate::plan::bytes(bytes as u64);
        // A closed stderr is no reason to stop.
        let _ = writeln!(
            std::io::stderr(),
            "{percent:3.0} %  {} of {}  {}/s  {left:.0} s left",
            text(self.done as f64),
            text(self.total as f64),
            text(rate)
        );
        self.last = Instant::now();
    }
}
