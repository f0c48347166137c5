//! The tuner on simulated filesystems: queueing models with noise, for which the best fixed number of
//! workers is known exactly.

use rand_like::Noise;

use super::*;

mod queues;

/// Random numbers from a printed seed.
mod rand_like {
    pub(super) struct Noise(pub(super) u64);

    impl Noise {
        /// Even in 0..1 (splitmix64).
        pub(super) fn even(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            #[allow(clippy::cast_precision_loss)]
            let number = ((z ^ (z >> 31)) >> 11) as f64;
            number / (1_u64 << 53) as f64
        }

        /// About normal, mean 0, deviation 1.
        pub(super) fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.even()).sum::<f64>() - 6.0
        }

        pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let index = (self.even() * from.len() as f64) as usize;
            from[index]
        }

        /// Even on a logarithmic scale.
        pub(super) fn log(&mut self, from: f64, to: f64) -> f64 {
            from * (to / from).powf(self.even())
        }
    }
}

/// Noise that lasts: a machine that others use as well is slow for a while, then fast again.
struct Swings {
    noise: Noise,
    deviation: f64,
    /// For how long it remembers.
    seconds: f64,
    at: f64,
}

impl Swings {
    /// The factor of the next tick, 1 in the middle (an autoregressive process of first order).
    fn next(&mut self) -> f64 {
        let keep = (-TICK_SECONDS / self.seconds).exp();
        self.at = keep * self.at + (1.0 - keep * keep).sqrt() * self.noise.normal();
        (self.deviation * self.at).exp()
    }
}

/// A place where operations take time.
#[derive(Debug, Clone, Copy)]
struct Station {
    /// Seconds that one operation takes alone.
    demand: f64,
    /// How many are served at once.
    servers: usize,
    /// By which part of itself an operation gets slower for each one that queues.
    crowding: f64,
}

impl Station {
    /// Operations per second with so many inside.
    fn rate(&self, inside: usize) -> f64 {
        let served = inside.min(self.servers) as f64;
        let queue = inside.saturating_sub(self.servers) as f64;
        served / (self.demand * (1.0 + self.crowding * queue))
    }
}

/// What a setting comes to.
struct Load {
    throughput: f64,
    /// Mean number inside each station; what waits before a bound is not inside.
    inside: Vec<f64>,
    /// The throughput with each number of workers from 1 on.
    throughputs: Vec<f64>,
}

/// A closed network of the four lanes and the processors (last), solved by convolution (Buzen).
fn load(stations: &[Station; 5], setting: &Setting) -> Load {
    let workers = setting.workers;
    let bound =
        |at: usize, n: usize| setting.bounds.get(at).copied().flatten().map_or(n, |b| n.min(b));
    let unit: f64 = stations.iter().map(|s| s.demand).fold(0.0, f64::max);
    let factors: Vec<Vec<f64>> = stations
        .iter()
        .enumerate()
        .map(|(at, station)| {
            let mut factor = vec![1.0];
            for n in 1..=workers {
                factor.push(factor[n - 1] / (unit * station.rate(bound(at, n))));
            }
            factor
        })
        .collect();
    let convolve = |a: &[f64], b: &[f64]| -> Vec<f64> {
        (0..=workers).map(|n| (0..=n).map(|k| a[k] * b[n - k]).sum()).collect()
    };
    let all = |skip: Option<usize>| {
        let one = [vec![1.0], vec![0.0; workers]].concat();
        let used = factors.iter().enumerate().filter(|(at, _)| Some(*at) != skip);
        used.fold(one, |sum, (_, factor)| convolve(&sum, factor))
    };
    let norm = all(None);
    let inside = (0..stations.len())
        .map(|at| {
            let others = all(Some(at));
            (1..=workers)
                .map(|n| bound(at, n) as f64 * factors[at][n] * others[workers - n] / norm[workers])
                .sum()
        })
        .collect();
    let throughputs: Vec<f64> = norm.windows(2).map(|pair| pair[0] / pair[1] / unit).collect();
    Load { throughput: throughputs[workers - 1], inside, throughputs }
}

fn fixed(workers: usize) -> Setting {
    Setting { workers, bounds: [None; 4] }
}

const CAP: usize = 128;
const TICK_SECONDS: f64 = 0.05;

/// The throughput of the best fixed number of workers. One convolution has all of them.
fn best_fixed(stations: &[Station; 5]) -> (f64, usize) {
    let throughputs = load(stations, &fixed(CAP)).throughputs.into_iter();
    throughputs.zip(1..).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

/// Lets a tuner work for so many seconds and returns its mean throughput over the second half
/// (without noise), and where it ended.
fn tuned(
    stations: &[Station; 5],
    noise: &mut Noise,
    deviation: f64,
    seconds: f64,
) -> (f64, Setting) {
    tuned_with(stations, 2, &mut || 1.0 + deviation * noise.normal(), seconds)
}

/// The same from so many workers on, with any factor on what is done in a tick.
fn tuned_with(
    stations: &[Station; 5],
    begin: usize,
    factor: &mut dyn FnMut() -> f64,
    seconds: f64,
) -> (f64, Setting) {
    let mut tuner = Tuner::new(begin, begin.min(2), CAP);
    let mut known: Vec<(Setting, Load)> = Vec::new();
    let (mut sum, mut count) = (0.0, 0.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // some hundreds
    let ticks = (seconds / TICK_SECONDS) as usize;
    for tick in 0..ticks {
        let setting = tuner.setting();
        if !known.iter().any(|(at, _)| *at == setting) {
            known.push((setting, load(stations, &setting)));
        }
        let load = &known.iter().find(|(at, _)| *at == setting).unwrap().1;
        let done = load.throughput * TICK_SECONDS * factor().max(0.05);
        let workers = setting.workers as f64;
        let mut lanes = [(0.0, 0.0); 4];
        for (at, lane) in lanes.iter_mut().enumerate() {
            *lane = (done, load.inside[at] * TICK_SECONDS);
        }
        tuner.look(&Observed {
            seconds: TICK_SECONDS,
            work: 4.0 * done,
            rounds: done,
            cpu: load.throughput * stations[4].demand / stations[4].servers as f64,
            waiting: 1.0 - load.inside[4] / workers,
            lanes,
        });
        if tick >= ticks / 2 {
            sum += load.throughput;
            count += 1.0;
        }
    }
    (sum / count, tuner.setting())
}

fn stations(lanes: [(f64, usize, f64); 4], cpu: f64) -> [Station; 5] {
    let lane = |(demand, servers, crowding)| Station { demand, servers, crowding };
    let [a, b, c, d] = lanes.map(lane);
    [a, b, c, d, Station { demand: cpu, servers: 2, crowding: 0.0 }]
}

#[test]
fn where_the_processors_are_busy_it_stays_at_their_number() {
    let memory = stations([(1e-6, 999, 0.0); 4], 12e-6);
    let (throughput, setting) = tuned(&memory, &mut Noise(1), 0.05, 6.0);
    assert!(setting.workers <= 3, "{setting:?}");
    assert!(throughput >= 0.97 * load(&memory, &fixed(2)).throughput);
}

#[test]
fn latency_is_hidden_within_three_seconds() {
    let far =
        stations([(3e-3, 999, 0.0), (1e-3, 999, 0.0), (4e-3, 999, 0.0), (1e-3, 999, 0.0)], 40e-6);
    let (best, workers) = best_fixed(&far);
    let (throughput, setting) = tuned(&far, &mut Noise(2), 0.08, 3.0);
    assert!(throughput >= 0.9 * best, "{throughput:.0} with {setting:?}, {best:.0} with {workers}");
}

/// A destination that takes four creations at once and loses its way in a crowd, behind a source that
/// takes any number: no fixed number of workers serves both.
#[test]
fn a_crowded_lane_is_bounded_while_the_others_have_more() {
    let crowd =
        stations([(20e-3, 999, 0.0), (1e-3, 999, 0.0), (1e-3, 4, 0.3), (1e-4, 999, 0.0)], 30e-6);
    let (best, workers) = best_fixed(&crowd);
    for seed in 0..20 {
        let (throughput, setting) = tuned(&crowd, &mut Noise(seed), 0.05, 12.0);
        println!("seed {seed}: {throughput:.0} with {setting:?}; {best:.0} with {workers}");
        assert!(throughput >= 0.95 * best, "seed {seed}: {throughput:.0} with {setting:?}");
    }
}

/// Any mixture of latencies, servers and crowding, with noise: within 10 % of the best fixed number.
#[test]
fn it_comes_within_ten_percent_of_the_best_fixed_number() {
    let seed = std::env::var("LONGSHORE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4);
    println!("LONGSHORE_SEED={seed}");
    let mut noise = Noise(seed);
    let mut ratios = Vec::new();
    for _ in 0..150 {
        let mut lane = || {
            let servers = noise.pick(&[2, 4, 8, 16, 64, 999, 999]);
            let crowding = noise.pick(&[0.0, 0.0, 0.01, 0.05, 0.2]);
            (noise.log(20e-6, 5e-3), servers, crowding)
        };
        let lanes = [lane(), lane(), lane(), lane()];
        let model = stations(lanes, noise.log(5e-6, 60e-6));
        let (best, workers) = best_fixed(&model);
        let (throughput, setting) = tuned(&model, &mut noise, 0.04, 10.0);
        let ratio = throughput / best;
        if ratio < 0.9 {
            println!("{ratio:.2} with {setting:?}, best with {workers}: {model:?}");
        }
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("worst {:.2?}, median {:.2}", &ratios[..10], ratios[ratios.len() / 2]);
    assert!(ratios[0] >= 0.8 && ratios[ratios.len() / 20] >= 0.9, "{:.2?}", &ratios[..10]);
}

/// Nothing is gained by more workers, and the noise is large: it must not wander off.
#[test]
fn noise_alone_does_not_make_it_climb() {
    let flat =
        stations([(1e-4, 1, 0.0), (1e-6, 999, 0.0), (1e-6, 999, 0.0), (1e-6, 999, 0.0)], 1e-6);
    for seed in 0..20 {
        let (_, setting) = tuned(&flat, &mut Noise(seed), 0.05, 30.0);
        assert!(setting.workers <= 16, "seed {seed}: {setting:?}");
    }
}

#[test]
fn the_users_cap_holds_whatever_is_gained() {
    let far = stations([(5e-3, 999, 0.0); 4], 10e-6);
    let mut tuner = Tuner::new(2, 1, 6);
    for tick in 0..400 {
        if tick == 200 {
            tuner.set_cap(3);
        }
        let load = load(&far, &tuner.setting());
        let setting = tuner.look(&Observed {
            seconds: TICK_SECONDS,
            work: 4.0 * load.throughput * TICK_SECONDS,
            waiting: 1.0,
            ..Observed::default()
        });
        assert!(setting.workers <= if tick < 200 { 6 } else { 3 });
    }
    assert_eq!(tuner.setting().workers, 3);
}

/// On a machine that others use as well the throughput swings by itself, for moments or for a second at
/// a time. Where the limit is latency, each worker less is a loss, which must not be taken for a swing.
#[test]
fn a_busy_machine_does_not_talk_it_out_of_workers_that_hide_latency() {
    let far = stations([(1e-3, 999, 0.0); 4], 40e-6);
    let (best, _) = best_fixed(&far);
    for seconds in [0.1, 0.5] {
        let mut shares: Vec<f64> = (0..40)
            .map(|seed| {
                let mut swings = Swings { noise: Noise(seed), deviation: 0.6, seconds, at: 0.0 };
                let (throughput, setting) = tuned_with(&far, 16, &mut || swings.next(), 20.0);
                println!("{seconds} s, seed {seed}: {:.2} {setting:?}", throughput / best);
                throughput / best
            })
            .collect();
        shares.sort_by(f64::total_cmp);
        assert!(shares[0] >= 0.6 && shares[10] >= 0.88, "swings of {seconds} s: {shares:.2?}");
    }
}

/// While the first worker reads the first directory, the others wait for something to do.
#[test]
fn the_first_moments_of_a_copy_do_not_end_the_climbing() {
    let far = stations([(1e-3, 999, 0.0); 4], 40e-6);
    let mut tuner = Tuner::new(16, 2, CAP);
    for tick in 0..30 {
        let setting = tuner.setting();
        let load = load(&far, &setting);
        let (part, waiting) = if tick < 6 { (0.05, 0.06) } else { (1.0, 0.95) };
        let done = part * load.throughput * TICK_SECONDS;
        tuner.look(&Observed {
            seconds: TICK_SECONDS,
            work: 4.0 * done,
            rounds: done,
            waiting,
            cpu: 0.05,
            lanes: [(done, done * 1e-3); 4],
        });
    }
    assert_eq!(tuner.setting().workers, CAP);
}

/// Eight servers at either end, each with its queue: some workers keep all of them busy, and the rest only stand in
/// the queues. They cost CPU, and get in each other's way in one file.
#[test]
fn no_more_workers_stay_than_the_servers_use() {
    let servers =
        stations([(1e-4, 999, 0.0), (4e-3, 8, 0.0), (1e-4, 999, 0.0), (8e-3, 8, 0.0)], 1e-4);
    let (best, _) = best_fixed(&servers);
    for seed in 0..20 {
        let (throughput, setting) = tuned_with(&servers, 16, &mut noisy(seed, 0.05), 3.0);
        println!("seed {seed}: {:.2} with {setting:?}", throughput / best);
        assert!(setting.workers <= 48, "seed {seed}: {setting:?}");
        assert!(throughput >= 0.93 * best, "seed {seed}: {throughput:.0} of {best:.0}");
    }
}

/// A factor that is new in every tick.
fn noisy(seed: u64, deviation: f64) -> impl FnMut() -> f64 {
    let mut noise = Noise(seed);
    move || 1.0 + deviation * noise.normal()
}

/// The same where every doubling looks like a gain while the pipes fill. A trial may fail by noise, so that not every
/// seed gets there in that time.
#[test]
fn a_crowd_that_came_while_pipes_filled_goes_home_within_three_seconds() {
    let servers =
        stations([(1e-4, 999, 0.0), (4e-3, 8, 0.0), (1e-4, 999, 0.0), (8e-3, 8, 0.0)], 1e-4);
    let mut ends = Vec::new();
    for seed in 0..20 {
        let mut noise = Noise(seed);
        let mut tuner = Tuner::new(16, 2, CAP);
        let mut most = 0;
        for tick in 0..60 {
            let setting = tuner.setting();
            most = most.max(setting.workers);
            let load = load(&servers, &setting);
            let done = load.throughput * TICK_SECONDS * (1.0 + 0.05 * noise.normal());
            let workers = setting.workers as f64;
            let filling = if tick < 10 { workers / 16.0 } else { 1.0 };
            let mut lanes = [(0.0, 0.0); 4];
            for (at, lane) in lanes.iter_mut().enumerate() {
                *lane = (done, load.inside[at] * TICK_SECONDS);
            }
            tuner.look(&Observed {
                seconds: TICK_SECONDS,
                work: 4.0 * done * filling,
                rounds: done,
                cpu: load.throughput * 1e-4 / 2.0,
                waiting: 1.0 - load.inside[4] / workers,
                lanes,
            });
        }
        println!("seed {seed}: {most} at most, {:?}", tuner.setting());
        assert_eq!(most, CAP, "seed {seed}: the crowd has to come first");
        ends.push(tuner.setting().workers);
    }
    ends.sort_unstable();
    assert!(ends[13] <= 64, "{ends:?}");
}

/// One lane is slow in a crowd and does less then, the others are not, and yet a bound starves them: that is noticed
/// long before a window is full.
#[test]
fn a_bound_that_costs_much_is_taken_back_at_once() {
    for seed in 0..20 {
        let mut noise = Noise(seed);
        let mut tuner = Tuner::new(16, 2, 128);
        let (mut poor, mut longest, mut trials) = (0, 0, 0);
        for _ in 0..400 {
            let setting = tuner.setting();
            let bounded = setting.bounds != [None; 4];
            poor = if bounded { poor + 1 } else { 0 };
            trials += i32::from(poor == 1);
            longest = longest.max(poor);
            let done = match setting.workers {
                _ if bounded => 20.0,
                ..=16 => 60.0,
                _ => 50.0,
            };
            let done = done * (1.0 + 0.05 * noise.normal());
            let inside = TICK_SECONDS * setting.workers as f64 / 2.0;
            let mut lanes = [(0.0, 0.0); 4];
            lanes[Lane::SourceRead as usize] = (done, inside);
            lanes[Lane::DestinationWrite as usize] = (done, done * 5e-3);
            let (cpu, waiting) = (0.1, 0.9);
            tuner.look(&Observed {
                seconds: TICK_SECONDS,
                work: done,
                rounds: done,
                cpu,
                waiting,
                lanes,
            });
        }
        assert!(
            trials > 0 && longest <= 2,
            "seed {seed}: {longest} ticks in one of {trials} trials"
        );
    }
}
