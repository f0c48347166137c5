//! Longshore moves data between parallel filesystems, exactly.
//!
//! The flow of a copy, as a reader meets it:
//!
//! ```text
//! cli ─► options ─► plan ─► engine: walk ─► file / link / special ─► backend ─► attributes ─► report
//!  └──► run (a job script): directive ─► rules ─► resolve ─► several copies side by side
//! ```
//!
//! Imports go one way: `error`, `options`, `plan`, `directive` know nothing of the engine; `engine`
//! knows nothing of the command line; nothing here prints except `cli` and `display`.

#[cfg(feature = "api")]
pub mod api;
pub mod arguments;
mod backend;
pub mod cancel;
pub mod checksum;
pub mod control_socket;
pub mod directive;
pub mod display;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod exit;
pub mod filter;
pub mod journal;
pub mod lanes;
pub mod lustre;
pub mod manifest;
pub mod mounts;
pub mod options;
pub mod plan;
pub mod progress;
pub mod report;
pub mod restripe;
pub mod run;
pub mod selection;
pub mod sys;
pub mod verify;
