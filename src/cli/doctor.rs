//! `longshore doctor`: prints what the library found, as text or JSON. Findings never change the
//! exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use longshore::display::human;
use longshore::doctor::Diagnosis;

use super::DoctorArgs;
use super::output::{print, refuse};

pub(crate) fn run(args: &DoctorArgs) -> ExitCode {
    let here = [PathBuf::from(".")];
    let paths = if args.paths.is_empty() { &here } else { args.paths.as_slice() };
    let diagnosis = match Diagnosis::new(paths) {
        Ok(diagnosis) => diagnosis,
        Err(refusal) => return refuse(&refusal),
    };
    if !args.json {
        return print(diagnosis.text(human::colour_on_stdout()).as_bytes());
    }
    match serde_json::to_string_pretty(&diagnosis) {
        Ok(json) => print(format!("{json}\n").as_bytes()),
        Err(error) => refuse(&error),
    }
}
