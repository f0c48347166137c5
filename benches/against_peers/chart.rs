//! The chart that README shows: for every workload one bar for each tool, time as a ratio to `cp -a`.

use crate::race::Outcome;
use crate::summary::{Cell, TOOLS, cell};
use crate::svg::Svg;
use crate::workload::Workload;

const WIDTH: f64 = 880.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = WIDTH - 60.0;
const BAR: f64 = 8.0;
const STEP: f64 = 9.5;
const GAP: f64 = 14.0;

/// A group of the chart: the workload's name, where it ran, and the bars by the number of the tool.
struct Group {
    name: &'static str,
    place: &'static str,
    bars: Vec<(usize, Cell)>,
}

/// The chart of all timed workloads.
pub fn of(results: &[(Workload, Outcome)]) -> String {
    let groups: Vec<Group> = results
        .iter()
        .filter(|(workload, _)| workload.timed)
        .map(|(workload, outcome)| Group {
            name: workload.name,
            place: workload.place.word(),
            bars: (0..)
                .zip(TOOLS)
                .filter_map(|(number, (_, tool))| Some((number, cell(outcome, tool)?)))
                .collect(),
        })
        .filter(|group| !group.bars.is_empty())
        .collect();
    let ratios = groups.iter().flat_map(|group| group.bars.iter().map(|(_, cell)| cell.ratio));
    let (least, greatest) =
        ratios.fold((0.5_f64, 2.0_f64), |(low, high), ratio| (low.min(ratio), high.max(ratio)));
    let scale = Scale { low: (least * 0.8).ln(), high: (greatest * 1.2).ln() };

    let mut svg = Svg::new(WIDTH);
    svg.text((16.0, 26.0), "start", "head", "Time to copy, as a ratio to cp -a");
    let note =
        "flush included, same run, log scale; shorter is faster. Pale: the copy lacked something.";
    svg.text((16.0, 44.0), "start", "small faint", note);
    let mut x = 16.0;
    for (number, (name, _)) in (0..).zip(TOOLS) {
        if groups.iter().any(|group| group.bars.iter().any(|(bar, _)| *bar == number)) {
            svg.bar((x, 55.0), (11.0, 11.0), &format!("c{number}"), 1.0);
            svg.text((x + 16.0, 65.0), "start", if number == 0 { "bold" } else { "" }, name);
            x += 90.0;
        }
    }
    let top = 92.0;
    let height = |group: &Group| count(group.bars.len()) * STEP + GAP;
    let bottom = top + groups.iter().map(height).sum::<f64>();
    for (tick, label) in TICKS {
        let x = scale.x(tick);
        if (LEFT..=RIGHT).contains(&x) {
            let class = if label == "cp -a" { "one" } else { "line" };
            svg.line((x, top - 6.0), (x, bottom), class);
            svg.text((x, top - 10.0), "middle", "small faint", label);
        }
    }
    let mut y = top;
    for group in &groups {
        let middle = y + count(group.bars.len()) * STEP / 2.0;
        svg.text((LEFT - 12.0, middle), "end", "bold", group.name);
        svg.text((LEFT - 12.0, middle + 12.0), "end", "small faint", group.place);
        for (number, cell) in &group.bars {
            let opacity = if cell.exact { 1.0 } else { 0.4 };
            let class = format!("c{number}");
            svg.bar((LEFT, y), (scale.x(cell.ratio) - LEFT, BAR), &class, opacity);
            let words = if cell.ratio < 0.1 {
                format!("{:.3}", cell.ratio)
            } else {
                format!("{:.2}", cell.ratio)
            };
            let class = if *number == 0 { "small bold" } else { "small faint" };
            svg.text((scale.x(cell.ratio) + 4.0, y + BAR), "start", class, &words);
            y += STEP;
        }
        y += GAP;
    }
    svg.finish(bottom + 12.0, "Time of Longshore and other tools as a ratio to cp -a")
}

/// Values with a line of their own.
const TICKS: [(f64, &str); 11] = [
    (0.01, "0.01"),
    (0.02, "0.02"),
    (0.05, "0.05"),
    (0.1, "0.1"),
    (0.2, "0.2"),
    (0.5, "0.5"),
    (1.0, "cp -a"),
    (2.0, "2"),
    (5.0, "5"),
    (10.0, "10"),
    (20.0, "20"),
];

struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn x(&self, ratio: f64) -> f64 {
        LEFT + (ratio.ln() - self.low) / (self.high - self.low) * (RIGHT - LEFT)
    }
}

#[allow(clippy::cast_precision_loss)] // a handful of bars
fn count(bars: usize) -> f64 {
    bars as f64
}
