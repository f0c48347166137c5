//! A FUSE filesystem that behaves as a Lustre client does, for tests of programs that know Lustre: files
//! have layouts, their data is charged to object storage targets with a bandwidth, a latency and room of
//! their own, clients fight for locks, and everything is logged. It stores no data of its own: content
//! lies in an ordinary directory behind it. `README.md` names what it cannot show.

mod answers;
mod archive;
mod buffers;
mod charge;
mod client;
mod control;
mod data;
mod emulator;
mod extents;
mod inode;
mod judgements;
mod layout;
mod locks;
mod log;
mod mds;
mod mdt;
mod ost;
pub mod passthrough;
mod rules;
mod settings;
mod shared;
mod striping;
pub mod units;

pub use emulator::Emulator;
pub use judgements::{Conflict, Moved};
pub use layout::Object;
pub use log::{Log, Part, Record, Totals};
pub use mdt::Mdt;
pub use ost::Ost;
pub use passthrough::Kind;
pub use settings::{Answers, Clients, MdtSettings, Misbehaviour, OstSettings, Settings};
