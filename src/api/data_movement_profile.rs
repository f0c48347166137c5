//! `NnfDataMovementProfile`: a site's settings for copies. It interprets none of the commands.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::{Column, Definition, Origin};
use super::resource::custom_resource;
use super::schema;

custom_resource! {
    /// A site's settings for copies, by name.
    NnfDataMovementProfile = Definition {
        origin: Origin::NnfSos,
        group: "nnf.cray.hpe.com",
        kind: "NnfDataMovementProfile",
        plural: "nnfdatamovementprofiles",
        short_names: &[],
        versions: &["v1alpha10", "v1alpha11"],
        status_subresource: false,
        columns: &[Column::new("DEFAULT", "boolean", ".data.default"), Column::AGE],
        required: &[],
    };
    /// The settings. They are not in a `spec`.
    data: NnfDataMovementProfileData,
}

/// The settings of a profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NnfDataMovementProfileData {
    /// Whether it is for requests that name no profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub default: Option<bool>,
    /// Whether it is the copy for one workflow, which nobody may change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub pinned: Option<bool>,
    /// Processes on each host; 0 leaves the choice to mpirun.
    #[schemars(with = "schema::Int", range(min = 0), extend("x-default" = 8))]
    pub slots: i64,
    /// The most processes on each host; 0 sets no limit.
    #[schemars(with = "schema::Int", range(min = 0), extend("x-default" = 0))]
    pub max_slots: i64,
    /// What copies. A command with dcp must hand on all that it is given.
    #[schemars(
        extend("x-default" = "ulimit -n 2048 && mpirun --allow-run-as-root --hostfile $HOSTFILE dcp --progress 1 --uid $UID --gid $GID $SRC $DEST"),
        extend("x-kubernetes-validations" = [{"rule": r#"!self.contains("dcp") || (self.contains("$HOSTFILE") && self.contains("$UID") && self.contains("$GID") && self.contains("$SRC") && self.contains("$DEST"))"#}])
    )]
    pub command: String,
    /// Log the output of a success too; that of a failure always is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub log_stdout: Option<bool>,
    /// Keep the output of a success in the message; that of a failure always is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub store_stdout: Option<bool>,
    /// Seconds between two reports of progress; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Int>", range(min = 0), extend("x-default" = 5))]
    pub progress_interval_seconds: Option<i64>,
    /// Whether the destination's directory is made before the copy.
    #[schemars(extend("x-default" = true))]
    pub create_dest_dir: bool,
    /// What finds out the kind of a path.
    #[schemars(
        extend("x-default" = "mpirun --allow-run-as-root -np 1 --hostfile $HOSTFILE -- $SETPRIV stat --cached never -c '%F' $PATH"),
        extend("x-kubernetes-validations" = [{"rule": r#"!self.contains("stat") || (self.contains("$HOSTFILE") && self.contains("$SETPRIV") && self.contains("$PATH"))"#}])
    )]
    pub stat_command: String,
    /// What makes a directory.
    #[schemars(
        extend("x-default" = "mpirun --allow-run-as-root -np 1 --hostfile $HOSTFILE -- $SETPRIV mkdir -p $PATH"),
        extend("x-kubernetes-validations" = [{"rule": r#"!self.contains("mkdir") || (self.contains("$HOSTFILE") && self.contains("$SETPRIV") && self.contains("$PATH"))"#}])
    )]
    pub mkdir_command: String,
    /// What becomes the user.
    #[schemars(
        extend("x-default" = "setpriv --euid $UID --egid $GID --clear-groups"),
        extend("x-kubernetes-validations" = [{"rule": r#"!self.contains("setpriv") || (self.contains("$UID") && self.contains("$GID"))"#}])
    )]
    pub setpriv_command: String,
}
