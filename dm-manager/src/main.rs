//! The manager's command line. It reconciles nothing yet: the cluster side comes after the engine.
//! It never opens a user's file and never links the engine.
#![forbid(unsafe_code)]

use clap::Parser;

/// Longshore's controllers.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {}

fn main() {
    let Args {} = Args::parse();
}
