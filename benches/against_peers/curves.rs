//! The plot of the sweep: on the left throughput by number of workers, on the right the number that
//! Longshore had at each moment of the run in which it was left to it.

use crate::svg::Svg;
use crate::sweep::Sweep;

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 170.0;
const PANEL: f64 = 215.0;
const LEFT: (f64, f64) = (70.0, 440.0);
const RIGHT: (f64, f64) = (530.0, 850.0);

/// The most workers of the axes.
const MOST: f64 = 128.0;

/// One row of panels for each filesystem.
pub fn of(sweeps: &[Sweep]) -> String {
    let mut svg = Svg::new(WIDTH);
    svg.text(
        (16.0, 26.0),
        "start",
        "head",
        "Number of workers: the sweep and Longshore's own choice",
    );
    let note =
        "Grey: fixed with --threads. Blue: the run in which the number was left to Longshore.";
    svg.text((16.0, 44.0), "start", "small faint", note);
    let mut top = 84.0;
    for sweep in sweeps {
        panel(&mut svg, sweep, top);
        top += PANEL;
    }
    svg.finish(top, "Throughput by number of workers, and the number chosen over time")
}

fn panel(svg: &mut Svg, sweep: &Sweep, top: f64) {
    let bottom = top + HEIGHT;
    let (best_number, best) = sweep.best();
    let most = best.max(sweep.own.rate).max(sweep.own.settled) * 1.1;
    let across = |range: (f64, f64), share: f64| range.0 + share * (range.1 - range.0);
    let x = |workers: f64| across(LEFT, workers.max(1.0).log2() / MOST.log2());
    let y = |rate: f64| bottom - rate / most * HEIGHT;
    svg.text((LEFT.0, top - 10.0), "start", "bold", sweep.place);
    svg.text((LEFT.1, top - 10.0), "end", "small faint", "files per second by workers");
    for share in [0.0, 0.5, 1.0] {
        let at = y(best * share);
        svg.line((LEFT.0, at), (LEFT.1, at), "line");
        svg.text((LEFT.0 - 6.0, at + 4.0), "end", "small faint", &format!("{:.0}", best * share));
    }
    let dots: Vec<(f64, f64)> =
        sweep.fixed.iter().map(|(number, rate)| (x(as_f64(*number)), y(*rate))).collect();
    svg.curve(&dots, "curve");
    for ((number, _), dot) in sweep.fixed.iter().zip(&dots) {
        svg.dot(*dot, if *number == best_number { 4.5 } else { 3.0 }, "c2");
        svg.text((dot.0, bottom + 14.0), "middle", "small faint", &number.to_string());
    }
    let own = y(sweep.own.settled);
    svg.curve(&[(LEFT.0, own), (LEFT.1, own)], "own");
    if let Some(workers) = sweep.own.workers {
        svg.dot((x(workers), own), 5.0, "c0");
    }

    svg.text((RIGHT.1, top - 10.0), "end", "small faint", "workers over the seconds of the run");
    let Some((last, _, _)) = sweep.own.trace.last() else {
        let middle = across(RIGHT, 0.5);
        let words = "this longshore reports no choice over time";
        svg.text((middle, top + HEIGHT / 2.0), "middle", "small faint", words);
        return;
    };
    let up = |workers: f64| bottom - workers.max(1.0).log2() / MOST.log2() * HEIGHT;
    for workers in [1.0, 4.0, 16.0, 64.0] {
        svg.line((RIGHT.0, up(workers)), (RIGHT.1, up(workers)), "line");
        svg.text(
            (RIGHT.0 - 6.0, up(workers) + 4.0),
            "end",
            "small faint",
            &format!("{workers:.0}"),
        );
    }
    // The best fixed number, for the eye.
    let best = as_f64(best_number);
    svg.curve(&[(RIGHT.0, up(best)), (RIGHT.1, up(best))], "curve");
    let mut steps = Vec::new();
    for (at, workers, _) in &sweep.own.trace {
        let x = across(RIGHT, at / last.max(1e-3));
        if let Some((_, before)) = steps.last().copied() {
            steps.push((x, before));
        }
        steps.push((x, up(*workers)));
    }
    svg.curve(&steps, "own");
    for share in [0.0, 0.5, 1.0] {
        let words = format!("{:.1} s", last * share);
        svg.text((across(RIGHT, share), bottom + 14.0), "middle", "small faint", &words);
    }
}

#[allow(clippy::cast_precision_loss)] // at most 128
fn as_f64(number: usize) -> f64 {
    number as f64
}
