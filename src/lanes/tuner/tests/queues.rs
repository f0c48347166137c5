//! The tuner on simulated queues: workers that go from operation to operation as those of a copy do, in
//! a time of their own. What a change comes to shows later than it is made, as in the real thing: crowds
//! gather and go home, waves of workers go round, and the machine is busy with other things now and then.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use lustre_emulator::passthrough::Hands;

use super::rand_like::Noise;
use super::{CAP, TICK_SECONDS, fixed};
use crate::lanes::Lane;
use crate::lanes::tuner::{Observed, Setting, Tuner};

/// The processors' number.
const CORES: usize = 2;

/// What an operation asks of whom.
#[derive(Debug, Clone, Copy)]
struct Operation {
    lane: Lane,
    /// Which side's server.
    side: usize,
    delay: Duration,
}

/// The server of one side: how many it serves at once, and by which part of itself an operation gets
/// slower for each that queues.
#[derive(Debug, Clone, Copy)]
struct Server {
    at_once: usize,
    crowding: f64,
}

/// Two filesystems, and a tree: its root, whose listing finds the directories, whose listing finds the
/// files.
#[derive(Debug)]
struct Model {
    root: Vec<Operation>,
    directory: Vec<Operation>,
    file: Vec<Operation>,
    directories: usize,
    files_of_each: usize,
    servers: [Server; 2],
    /// What each operation takes of a processor.
    processing: Duration,
    /// By which part of itself a delay varies.
    deviation: f64,
    /// For so long at the beginning it takes five times as much.
    warming: Duration,
    /// Each second or so the whole machine does something else for so long.
    stall: Duration,
}

/// Who decides how many workers there are.
#[derive(Debug)]
enum Steered {
    Fixed(usize),
    By(Box<Tuner>),
}

/// A worker at work.
#[derive(Debug, Clone, Copy)]
struct Busy<'m> {
    task: &'m [Operation],
    /// Operation of the task.
    at: usize,
    since: Instant,
}

/// A copy under way.
struct Simulation<'m> {
    model: &'m Model,
    noise: Noise,
    now: Instant,
    /// By worker, those that have something to do.
    workers: Vec<Option<Busy<'m>>>,
    /// When which worker's operation is over.
    ends: BinaryHeap<Reverse<(Instant, usize)>>,
    servers: [Hands; 2],
    processors: Hands,
    inside: [usize; Lane::ALL.len()],
    /// Workers before a lane.
    waiting: [VecDeque<usize>; Lane::ALL.len()],
    /// Found and not begun: the root, directories, files.
    found: [usize; 3],
    left: usize,
    /// The next stall.
    stall: Instant,
    warm: Instant,
    seen: Observed,
}

impl<'m> Simulation<'m> {
    fn new(model: &'m Model, seed: u64) -> Self {
        let now = Instant::now();
        let mut noise = Noise(seed);
        let warm = now + model.warming;
        let stall = now + Duration::from_secs_f64(noise.even());
        Self {
            model,
            noise,
            now,
            workers: vec![None; CAP],
            ends: BinaryHeap::new(),
            servers: Default::default(),
            processors: Hands::default(),
            inside: [0; 4],
            waiting: Default::default(),
            found: [1, 0, 0],
            left: 1 + model.directories * (1 + model.files_of_each),
            stall,
            warm,
            seen: Observed::default(),
        }
    }

    /// Goes on until then, or until all is done.
    fn run_until(&mut self, then: Instant, setting: &Setting) {
        self.send(setting);
        while self.left > 0 {
            match self.ends.peek() {
                Some(Reverse((end, _))) if *end <= then => {}
                _ => {
                    self.now = then;
                    return;
                }
            }
            let Some(Reverse((end, worker))) = self.ends.pop() else { return };
            self.now = end;
            self.end(worker);
            self.send(setting);
        }
    }

    /// Gives work to whoever has none, and lets in who waits.
    fn send(&mut self, setting: &Setting) {
        for worker in 0..setting.workers {
            if self.workers[worker].is_none()
                && let Some(task) = self.take()
            {
                self.workers[worker] = Some(Busy { task, at: 0, since: self.now });
                self.waiting[task[0].lane as usize].push_back(worker);
            }
        }
        for lane in Lane::ALL {
            let room = setting.bounds[lane as usize].unwrap_or(usize::MAX);
            while self.inside[lane as usize] < room
                && let Some(worker) = self.waiting[lane as usize].pop_front()
            {
                self.begin(worker);
            }
        }
    }

    /// What to do next: what was found last comes first.
    fn take(&mut self) -> Option<&'m [Operation]> {
        let tasks = [&self.model.root, &self.model.directory, &self.model.file];
        let kind = (0..3).rev().find(|kind| self.found[*kind] > 0)?;
        self.found[kind] -= 1;
        Some(tasks[kind])
    }

    fn begin(&mut self, worker: usize) {
        let Some(busy) = &mut self.workers[worker] else { return };
        let Operation { lane, side, delay } = busy.task[busy.at];
        self.inside[lane as usize] += 1;
        // Whoever waits for room in a lane waits for what is done there.
        self.seen.lanes[lane as usize].1 += (self.now - busy.since).as_secs_f64();
        busy.since = self.now;
        let varied = (1.0 + self.model.deviation * self.noise.normal()).max(0.1);
        let mut processing = self.model.processing;
        if self.now < self.warm {
            processing *= 5;
        }
        let begins = self.processors.serve(self.now, processing, CORES, 0.0);
        self.seen.cpu += processing.as_secs_f64() / CORES as f64;
        let server = self.model.servers[side];
        let delay = delay.mul_f64(varied);
        let mut end = self.servers[side].serve(begins, delay, server.at_once, server.crowding);
        // Nothing is noticed while the machine does something else.
        if end > self.stall {
            let goes_on = self.stall + self.model.stall;
            end = end.max(goes_on);
            if self.now > goes_on {
                self.stall = self.now + Duration::from_secs_f64(2.0 * self.noise.even());
            }
        }
        self.ends.push(Reverse((end, worker)));
    }

    fn end(&mut self, worker: usize) {
        let Some(busy) = &mut self.workers[worker] else { return };
        let lane = busy.task[busy.at].lane as usize;
        self.inside[lane] -= 1;
        self.seen.lanes[lane].0 += 1.0;
        self.seen.lanes[lane].1 += (self.now - busy.since).as_secs_f64();
        busy.since = self.now;
        busy.at += 1;
        if let Some(next) = busy.task.get(busy.at) {
            self.waiting[next.lane as usize].push_back(worker);
            return;
        }
        self.left -= 1;
        self.seen.rounds += 1.0;
        if std::ptr::eq(busy.task, self.model.root.as_slice()) {
            self.found[1] += self.model.directories;
        } else if std::ptr::eq(busy.task, self.model.directory.as_slice()) {
            self.found[2] += self.model.files_of_each;
        }
        self.workers[worker] = None;
    }
}

/// Seconds that a copy takes, and the settings on the way.
fn copy(model: &Model, mut steered: Steered, seed: u64) -> (f64, Vec<Setting>) {
    let mut simulation = Simulation::new(model, seed);
    let began = simulation.now;
    let mut settings = Vec::new();
    while simulation.left > 0 && simulation.now < began + Duration::from_secs(100) {
        let setting = match &steered {
            Steered::Fixed(workers) => fixed(*workers),
            Steered::By(tuner) => tuner.setting(),
        };
        settings.push(setting);
        let tick = simulation.now + Duration::from_secs_f64(TICK_SECONDS);
        simulation.run_until(tick, &setting);
        let mut seen = std::mem::take(&mut simulation.seen);
        let waits: f64 = seen.lanes.iter().map(|lane| lane.1).sum();
        seen.seconds = TICK_SECONDS;
        seen.cpu = (seen.cpu / TICK_SECONDS).min(1.0);
        seen.waiting = (waits / TICK_SECONDS / setting.workers as f64).min(1.0);
        seen.work = seen.lanes.iter().map(|lane| lane.0).sum();
        if let Steered::By(tuner) = &mut steered {
            tuner.look(&seen);
        }
    }
    ((simulation.now - began).as_secs_f64(), settings)
}

fn describe(settings: &[Setting]) -> String {
    let mut text = String::new();
    for (tick, setting) in settings.iter().enumerate() {
        if tick == 0 || settings[tick - 1] != *setting {
            text += &format!(" {:.2}:{}", tick as f64 * TICK_SECONDS, setting.workers);
            for (lane, bound) in setting.bounds.iter().enumerate() {
                text += &bound.map_or(String::new(), |bound| format!("[{lane}:{bound}]"));
            }
        }
    }
    text
}

fn operation(lane: Lane, side: usize, micros: u64) -> Operation {
    Operation { lane, side, delay: Duration::from_micros(micros) }
}

/// A server that answers four at once and loses its way in a crowd, behind a source that takes any
/// number: what `tests/concurrency.rs` has, with the requests that a file there comes to.
fn crowded(processing: u64, warming: u64, stall: u64) -> Model {
    let source = operation(Lane::SourceMetadata, 0, 4000);
    let create = operation(Lane::DestinationCreate, 1, 500);
    // The kernel asks for an attribute with each write.
    let write = operation(Lane::DestinationWrite, 1, 500);
    Model {
        root: vec![source; 20],
        directory: [vec![source; 4], vec![create; 3], vec![source]].concat(),
        file: [vec![source; 5], vec![create, create, write, create, create], vec![source; 2]]
            .concat(),
        directories: 80,
        files_of_each: 40,
        servers: [Server { at_once: 999, crowding: 0.0 }, Server { at_once: 4, crowding: 0.1 }],
        processing: Duration::from_micros(processing),
        warming: Duration::from_millis(warming),
        stall: Duration::from_millis(stall),
        deviation: 0.3,
    }
}

/// With 48 workers, some more than it bears, a crowd gathers and stays. Climbing must not lead there, however slow
/// the machine is in the first moments, and whatever else it does.
#[test]
fn a_destination_that_gets_worse_in_a_crowd_is_spared_whatever_the_waves() {
    let mut shares = Vec::new();
    for [processing, warming, stall] in [
        [20, 0, 0],
        [20, 200, 100],
        [100, 0, 100],
        [100, 200, 0],
        [100, 200, 100],
        [100, 400, 0],
        [100, 400, 100],
    ] {
        let model = crowded(processing, warming, stall);
        let (crowd, _) = copy(&model, Steered::Fixed(48), 0);
        for seed in 0..10 {
            let tuner = Box::new(Tuner::new(16, 2, CAP));
            let (seconds, settings) = copy(&model, Steered::By(tuner), seed);
            println!(
                "{processing} us, {warming} ms, {stall} ms, seed {seed}: {seconds:.2} s, 48: {crowd:.2};{}",
                describe(&settings)
            );
            shares.push(seconds / crowd);
        }
    }
    shares.sort_by(f64::total_cmp);
    println!("{shares:.2?}");
    let [nine_of_ten, worst] = [shares[shares.len() * 9 / 10], shares[shares.len() - 1]];
    assert!(nine_of_ten < 0.65 && worst < 1.0, "{shares:.2?}");
}

/// It begins with more than the server bears: they would take 26 seconds if the crowd stayed.
#[test]
fn a_crowd_that_is_there_from_the_beginning_goes_home() {
    let model = crowded(20, 0, 0);
    for seed in 0..10 {
        let tuner = Box::new(Tuner::new(64, 2, CAP));
        let (seconds, settings) = copy(&model, Steered::By(tuner), seed);
        println!("seed {seed}: {seconds:.2} s;{}", describe(&settings));
        assert!(seconds < 10.0, "seed {seed}: {seconds:.2} s");
    }
}
