//! Progress of a run: a bar on a terminal, plain lines elsewhere, or nothing.

use crate::model::hub::Watch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where progress goes.
pub struct Progress {
    kind: Kind,
    unit: Unit,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Items,
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
    /// What is being done.
    what: String,
}

/// Time between plain lines.
const EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// No progress is shown.
    pub fn silent() -> Self {
        Self { kind: Kind::Silent, unit: Unit::Bytes }
    }

    /// Counts bytes: a bar if stderr is a terminal, plain lines otherwise.
    pub fn stderr() -> Self {
        Self::counting(Unit::Bytes)
    }

    /// The same, counting the items of an evaluation.
    pub fn items() -> Self {
        Self::counting(Unit::Items)
    }

    fn counting(unit: Unit) -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = match unit {
                Unit::Bytes => {
                    "{bar:30} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left"
                }
                Unit::Items => "{bar:30} {pos}/{len} items  {eta} left  {msg}",
            };
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            return Self { kind: Kind::Bar(bar), unit };
        }
        Self { kind: Kind::Lines(Mutex::new(Lines::new(Instant::now()))), unit }
    }

    /// Sets how much is to come.
    pub(crate) fn begin(&self, total: u64) {
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

    /// Says what is being done.
    pub(crate) fn say(&self, what: &str) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => bar.set_message(what.to_string()),
            Kind::Lines(lines) => {
                if let Ok(mut lines) = lines.lock() {
                    what.clone_into(&mut lines.what);
                }
            }
        }
    }

    /// Adds what is done.
    pub(crate) fn advance(&self, bytes: u64) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => bar.inc(bytes),
            Kind::Lines(lines) => {
                if let Ok(mut lines) = lines.lock() {
                    lines.done += bytes;
                    if lines.last.elapsed() >= EVERY {
                        lines.print(self.unit);
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
    pub(crate) fn end(&self) {
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
                    *lines = Lines::new(Instant::now());
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
    fn new(now: Instant) -> Self {
        Self { started: now, last: now, total: 0, done: 0, what: String::new() }
    }

    fn print(&mut self, unit: Unit) {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.done as f64 / seconds;
        let left = self.total.saturating_sub(self.done) as f64 / rate;
        let percent = 100.0 * self.done as f64 / self.total.max(1) as f64;
        let text = |bytes: f64| crate::plan::bytes(bytes as u64);
        let done = match unit {
            Unit::Bytes => {
                let (done, total) = (text(self.done as f64), text(self.total as f64));
                format!("{done} of {total}  {}/s", text(rate))
            }
            Unit::Items => format!("{} of {} items  {}", self.done, self.total, self.what),
        };
        let left = if self.done > 0 { format!("  {left:.0} s left") } else { String::new() };
        // A closed stderr is no reason to stop.
        let _ = writeln!(std::io::stderr(), "{percent:3.0} %  {done}{left}");
        self.last = Instant::now();
    }
}
