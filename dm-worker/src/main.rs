//! The worker's command line. It runs no movement yet: the cluster side comes after the engine.
//! It never decides what is copied.
#![forbid(unsafe_code)]

use clap::Parser;

/// Longshore's agent on a storage node.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {}

fn main() {
    let Args {} = Args::parse();
}
