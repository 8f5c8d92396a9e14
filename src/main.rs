//! The command line: parse, call the library, print the error and its hint, exit with its code.

mod cli;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let place =
            info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or("unknown");
        let message = format!(
            "error: internal error{place}: {text}\nhint: this is a bug in cognate; please report it"
        );
        let _ = writeln!(std::io::stderr(), "{message}");
    }));
    let result = std::panic::catch_unwind(|| cli::Cli::parse().run());
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
        Err(_) => ExitCode::from(1),
    }
}
