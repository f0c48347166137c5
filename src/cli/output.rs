//! Finished text to standard output, and refusals to standard error with their exit code. Progress
//! is not shown here; that is the library's `display`.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use longshore::exit::Outcome;

/// Prints a finished text. A reader that has seen enough (`| head`) is no error.
pub(crate) fn print(text: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

/// Says why the command was refused, with every cause.
pub(crate) fn refuse(error: &dyn Error) -> ExitCode {
    let mut text = format!("longshore: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text.push('\n');
    let _ = io::stderr().write_all(text.as_bytes()); // the exit code still tells
    ExitCode::from(Outcome::Refused.code())
}
