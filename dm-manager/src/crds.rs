//! `dm-manager crds`: the definitions of the custom resources, as YAML for `kubectl apply`. It talks to
//! no API server.

use std::io::{self, ErrorKind, Write};

use anyhow::Context;
use clap::ValueEnum;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use longshore::api::{self, Origin};
use serde_json::Value;

/// Print the custom resource definitions that are ours to install, as YAML
///
/// Alone it prints DataMovementShard. The others belong to programs that install them themselves, with
/// webhooks that convert and validate: applying them beside such a program takes its webhooks away.
/// For a cluster without it, --without adds what it would have installed.
///
///   dm-manager crds | kubectl apply --server-side -f -
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Add the definitions of a program that this cluster does not have
    #[arg(long, value_name = "PROGRAM", value_enum)]
    without: Vec<Program>,

    /// Add all definitions: the cluster has none of these programs
    #[arg(long, conflicts_with = "without")]
    all: bool,
}

/// A program that installs definitions which Longshore uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Program {
    /// NnfDataMovement, its manager and profiles, NnfStorage, NnfNodeStorage
    NnfSos,
    /// LustreFileSystem
    LustreFsOperator,
    /// Workflow, DWDirectiveRule
    Dws,
}

impl Args {
    fn include(&self, origin: Origin) -> bool {
        let program = match origin {
            Origin::Longshore => return true,
            Origin::NnfSos => Program::NnfSos,
            Origin::LustreFsOperator => Program::LustreFsOperator,
            Origin::Dws => Program::Dws,
        };
        self.all || self.without.contains(&program)
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut text = String::new();
    for (origin, definition) in api::definitions() {
        if args.include(origin) {
            text += "---\n";
            text += &yaml(&definition)?;
        }
    }
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("failed to write the definitions"),
    }
}

fn yaml(definition: &CustomResourceDefinition) -> anyhow::Result<String> {
    // By way of JSON values, so that fields come in the order in which kubectl shows them.
    let mut value = serde_json::to_value(definition).context("a definition has no JSON form")?;
    whole_numbers(&mut value);
    serde_saphyr::to_string(&value).context("a definition has no YAML form")
}

/// Bounds are held as fractions, whatever is bounded; they are printed as they were written.
#[allow(
    clippy::cast_possible_truncation,
    reason = "only what has no fraction and fits is converted"
)]
fn whole_numbers(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53: beyond it not every integer is a fraction too
    match value {
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Number(number) => {
            if let Some(fraction) = number.as_f64().filter(|_| number.is_f64())
                && fraction.fract() == 0.0
                && fraction.abs() < EXACT
            {
                *value = Value::from(fraction as i64);
            }
        }
        _ => {}
    }
}
