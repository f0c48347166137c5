//! What is measured: trees, filesystems, who takes part, and what was aimed at (issue 4 of the project).

use std::time::Duration;

use crate::aims::Aim;
use crate::arena::Place;
use crate::rows::{CP, MAIN, Peer, Row, Way};
use crate::support::latency_fs::Servers;
use crate::trees::{MEDIAN_BYTES, SIGMA, Tree};
use crate::workload::Workload;

const UNFLUSHED: Row = Row::Longshore(Way::Unflushed);
const THREADS: Row = Row::Longshore(Way::Backend("threads"));
const VERIFY: Row = Row::Longshore(Way::With("--verify"));
const UNJOURNALLED: Row = Row::Longshore(Way::With("--journal none"));
const RSYNC: Row = Row::Peer(Peer::Rsync { sparse: false });
const TAR: Row = Row::Peer(Peer::Tar);
const XCP: Row = Row::Peer(Peer::Xcp);
const RCLONE: Row = Row::Peer(Peer::Rclone);
const FPSYNC: Row = Row::Peer(Peer::Fpsync { jobs: 2, files: 5000 });
const DCP: Row = Row::Peer(Peer::Dcp(2));

/// Of a metadata request on the filesystem with latency; parallel filesystems take 0.5 to 2 ms.
const LATENCY: Duration = Duration::from_millis(1);

/// All of them, in the order in which they run.
pub fn all(quick: bool) -> Vec<Workload> {
    let mut all = vec![
        fidelity(quick),
        small_warm(quick),
        small_cold(quick),
        small_disk_warm(quick),
        mixed_cold(quick),
        large_cold(quick),
        eight_large(quick),
        sparse_cold(quick),
        metadata(quick),
        attributes(quick),
        clones(quick),
        clone_large(quick),
        latency_small(quick),
        latency_large(quick),
    ];
    if quick {
        for workload in all.iter_mut().filter(|workload| workload.timed) {
            workload.rows.retain(|row| !LEFT_OUT_OF_QUICK.contains(row));
        }
    }
    all
}

/// The slowest peers and the second ways of Longshore; all of them together would take a minute.
const LEFT_OUT_OF_QUICK: [Row; 4] = [RCLONE, FPSYNC, DCP, THREADS];

/// One size for all, so that every workload can have the images of the one before.
fn ext4(quick: bool, inodes: u64) -> Place {
    Place::Ext4 { mib: if quick { 1536 } else { 4608 }, inodes }
}

fn xfs(quick: bool) -> Place {
    Place::Xfs { mib: if quick { 1536 } else { 4608 } }
}

fn fidelity(quick: bool) -> Workload {
    let sparse = Row::Peer(Peer::Rsync { sparse: true });
    let rows = [CP, MAIN, sparse, TAR, XCP, RCLONE, FPSYNC, DCP];
    let about = "one of everything that a file can have; not timed".to_owned();
    let workload = Workload::new("fidelity", about, Tree::Everything, &rows);
    Workload { timed: false, ..workload.on(ext4(quick, 60_000)).usually(50.0) }
}

fn small_warm(quick: bool) -> Workload {
    let dirs = if quick { 200 } else { 1000 };
    let about = format!("{} files of 4 KiB in {dirs} directories, warm", dirs * 100);
    let tree = Tree::Small { dirs, files: 100, bytes: 4096 };
    let own = [CP, MAIN, UNJOURNALLED, VERIFY];
    let rows = [RSYNC, TAR, XCP, RCLONE, FPSYNC, DCP, Row::Limit("stream", 2)];
    Workload::new("small-warm", about, tree, &[&own[..], &rows].concat())
        .usually(80.0)
        .aims(&[Aim::Flushed(0.38)])
}

fn small_cold(quick: bool) -> Workload {
    let dirs = if quick { 60 } else { 300 };
    let about = format!("{} files of 4 KiB in {dirs} directories, cold", dirs * 100);
    let tree = Tree::Small { dirs, files: 100, bytes: 4096 };
    let own = [CP, MAIN, UNFLUSHED, THREADS];
    let rows = [RSYNC, TAR, XCP, FPSYNC, DCP, Row::Limit("stream", 32)];
    Workload::new("small-cold", about, tree, &[&own[..], &rows].concat())
        .on(ext4(quick, 60_000))
        .cold()
        .patient(4.0)
        .usually(75.0)
        .aims(&[Aim::Wall(0.24)])
}

fn small_disk_warm(quick: bool) -> Workload {
    let dirs = if quick { 60 } else { 300 };
    let about = format!("{} files of 4 KiB in {dirs} directories, warm", dirs * 100);
    let tree = Tree::Small { dirs, files: 100, bytes: 4096 };
    let rows = [CP, MAIN, UNFLUSHED, TAR, XCP, Row::Limit("stream", 2)];
    Workload::new("small-disk-warm", about, tree, &rows).on(ext4(quick, 60_000)).usually(22.0)
}

fn mixed_cold(quick: bool) -> Workload {
    let files = if quick { 2000 } else { 20_000 };
    let about = format!(
        "{files} files, sizes log-normal with median {} KiB and sigma {SIGMA}, at most 64 MiB, cold",
        MEDIAN_BYTES / 1024.0
    );
    let own = [CP, MAIN, UNFLUSHED, VERIFY];
    let rows = [RSYNC, TAR, XCP, FPSYNC, DCP, Row::Limit("stream", 8)];
    Workload::new("mixed-cold", about, Tree::Mixed { files }, &[&own[..], &rows].concat())
        .on(ext4(quick, 60_000))
        .cold()
        .patient(4.0)
        .usually(95.0)
        .aims(&[Aim::Wall(0.40)])
}

fn large_cold(quick: bool) -> Workload {
    let mib = if quick { 1024 } else { 4096 };
    let own = [CP, MAIN, THREADS, VERIFY];
    let rows = [RSYNC, XCP, RCLONE, FPSYNC, DCP, Row::Limit("stream", 1)];
    let about = format!("one file of {mib} MiB, cold");
    let tree = Tree::Large { files: 1, mib };
    let workload = Workload::new("large-cold", about, tree, &[&own[..], &rows].concat());
    let aims = [Aim::FlushedBest(0.75), Aim::CpuBest(0.10)];
    workload.on(ext4(quick, 60_000)).cold().by_gib().patient(5.0).usually(150.0).aims(&aims)
}

fn eight_large(quick: bool) -> Workload {
    let mib = if quick { 64 } else { 512 };
    let limits = [Row::Limit("stream", 2), Row::Limit("splice", 2)];
    let rows = [CP, MAIN, VERIFY, RSYNC, TAR, XCP, FPSYNC, DCP];
    let about = format!("8 files of {mib} MiB, warm");
    let tree = Tree::Large { files: 8, mib };
    Workload::new("eight-large", about, tree, &[&rows[..], &limits].concat())
        .by_gib()
        .patient(4.0)
        .usually(65.0)
        .aims(&[Aim::Flushed(0.56)])
}

fn sparse_cold(quick: bool) -> Workload {
    let extents = if quick { 200 } else { 1024 };
    let rows = [CP, MAIN, THREADS, XCP, DCP, Row::Limit("segments", 1)];
    let about = format!("one file of 64 GiB with {extents} extents of 1 MiB, cold");
    Workload::new("sparse-cold", about, Tree::Sparse { extents }, &rows)
        .on(ext4(quick, 60_000))
        .cold()
        .by_gib()
        .usually(35.0)
        .aims(&[Aim::Flushed(0.35)])
}

fn metadata(quick: bool) -> Workload {
    let dirs = if quick { 1000 } else { 5000 };
    let about = format!(
        "{} empty files, {dirs} directories, {} symbolic links, {dirs} hard links, warm",
        dirs * 10,
        dirs / 2
    );
    let rows = [CP, MAIN, RSYNC, TAR, XCP, RCLONE, FPSYNC, DCP, Row::Limit("stream", 2)];
    Workload::new("metadata", about, Tree::Metadata { dirs }, &rows)
        .usually(28.0)
        .aims(&[Aim::Flushed(0.40)])
}

fn attributes(quick: bool) -> Workload {
    let dirs = if quick { 20 } else { 100 };
    let about = format!(
        "{} files of 4 KiB with two extended attributes, every second one with an ACL, warm",
        dirs * 100
    );
    let rows = [CP, MAIN, UNFLUSHED, RSYNC, TAR, XCP, FPSYNC, DCP];
    Workload::new("attributes", about, Tree::Attributed { dirs, files: 100 }, &rows)
        .on(ext4(quick, 60_000))
        .usually(16.0)
}

fn clones(quick: bool) -> Workload {
    let dirs = if quick { 50 } else { 200 };
    let about = format!("{} files of 16 KiB that can be cloned, warm", dirs * 100);
    let tree = Tree::Small { dirs, files: 100, bytes: 16_384 };
    let rows = [CP, MAIN, UNFLUSHED, RSYNC, TAR, XCP];
    Workload::new("clones", about, tree, &rows)
        .on(xfs(quick))
        .usually(30.0)
        .aims(&[Aim::Wall(0.50)])
}

fn clone_large(quick: bool) -> Workload {
    let mib = if quick { 256 } else { 1024 };
    let about = format!("one file of {mib} MiB that can be cloned, warm");
    let tree = Tree::Large { files: 1, mib };
    let rows = [CP, MAIN, UNFLUSHED, UNJOURNALLED, XCP];
    Workload::new("clone-large", about, tree, &rows).on(xfs(quick)).by_gib().usually(15.0)
}

/// Many directories: the kernel makes files of one directory one by one, whoever copies.
fn latency_small(quick: bool) -> Workload {
    let dirs = if quick { 32 } else { 64 };
    let about = format!(
        "{} files of 4 KiB in {dirs} directories, 1 ms for every metadata request",
        dirs * 20
    );
    let tree = Tree::Small { dirs, files: 20, bytes: 4096 };
    let fpsync = Row::Peer(Peer::Fpsync { jobs: 8, files: 100 });
    let rows = [CP, MAIN, XCP, RCLONE, fpsync, Row::Peer(Peer::Rsyncs(8))];
    let rest = [Row::Peer(Peer::Dcp(8)), Row::Limit("stream", 64)];
    let place = Place::Latency { metadata: LATENCY, data: Duration::ZERO, servers: None };
    let workload = Workload::new("latency-small", about, tree, &[&rows[..], &rest].concat())
        .on(place)
        .aims(&[Aim::FasterThanCp(20.0), Aim::FasterThanRsyncs(4.0)]);
    workload.patient(0.0).usually(48.0)
}

/// Eight servers at either end: what FUSE can move on two cores is several times as much as they give.
const SERVERS: usize = 8;

/// What each of them gives, in MiB/s.
const SERVER_MIB: usize = 32;

fn servers() -> Place {
    let servers = Servers { count: SERVERS, bandwidth: (SERVER_MIB as u64) << 20, stripes: None };
    Place::Latency { metadata: LATENCY, data: Duration::ZERO, servers: Some(servers) }
}

/// The seconds that all servers together need for so many MiB.
#[allow(clippy::cast_precision_loss)] // a few hundred
fn servers_seconds(mib: usize) -> f64 {
    mib as f64 / (SERVERS * SERVER_MIB) as f64
}

fn latency_large(quick: bool) -> Workload {
    let (files, mib) = if quick { (16, 16) } else { (32, 40) };
    let about =
        format!("{files} files of {mib} MiB on {SERVERS} data servers of {SERVER_MIB} MiB/s");
    let fpsync = Row::Peer(Peer::Fpsync { jobs: 8, files: 1 });
    let rows = [CP, MAIN, XCP, fpsync, Row::Peer(Peer::Dcp(8)), Row::Limit("stream", 32)];
    let aims = [Aim::OfLimit(1.05), Aim::OfSeconds(1.05, servers_seconds(files * mib))];
    let workload = Workload::new("latency-large", about, Tree::Large { files, mib }, &rows)
        .on(servers())
        .by_gib()
        .aims(&aims);
    workload.patient(0.0).usually(107.0)
}
