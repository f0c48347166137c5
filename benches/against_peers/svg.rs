//! The few shapes of the plots, as text. Colours are classes, so that a page's light or dark mode
//! chooses them; what is drawn is the business of `chart.rs` and `curves.rs`.

use std::fmt::Write;

/// Colours of both modes. Longshore's is the only strong one.
const STYLE: &str = "\
    text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#24292f}\
    .small{font-size:10.5px}.head{font-size:15px;font-weight:600}.bold{font-weight:600}\
    .faint{fill:#57606a}.line{stroke:#d0d7de;stroke-width:1}.one{stroke:#24292f;stroke-width:1.5}\
    .c0{fill:#0969da}.c1{fill:#9a6700}.c2{fill:#8c959f}.c3{fill:#5e8c6a}.c4{fill:#8250df}\
    .c5{fill:#bf3989}.c6{fill:#1b7c83}.curve{fill:none;stroke:#8c959f;stroke-width:1.8}\
    .own{fill:none;stroke:#0969da;stroke-width:2.2}.back{fill:#ffffff}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.faint{fill:#9198a1}.line{stroke:#3d444d}\
    .one{stroke:#e6edf3}.c0{fill:#4493f8}.c1{fill:#d29922}.c2{fill:#9198a1}.c3{fill:#7fb08c}\
    .c4{fill:#ab7df8}.c5{fill:#db61a2}.c6{fill:#39c5cf}.curve{stroke:#9198a1}.own{stroke:#4493f8}\
    .back{fill:#0d1117}}";

/// A drawing that is being made.
pub struct Svg {
    body: String,
    width: f64,
}

impl Svg {
    /// An empty one of this width.
    pub fn new(width: f64) -> Self {
        Self { body: String::new(), width }
    }

    /// Words; `anchor` is `start`, `middle` or `end`.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: &str, class: &str, words: &str) {
        let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{words}</text>"
        );
    }

    /// A straight line.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    /// A bar; `opacity` below one is for what was not exact.
    pub fn bar(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        class: &str,
        opacity: f64,
    ) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" class=\"{class}\" \
             fill-opacity=\"{opacity}\"/>",
            width.max(0.5)
        );
    }

    /// A line through points.
    pub fn curve(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ =
            writeln!(self.body, "<polyline points=\"{}\" class=\"{class}\"/>", points.join(" "));
    }

    /// A dot.
    pub fn dot(&mut self, (x, y): (f64, f64), radius: f64, class: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" class=\"{class}\"/>"
        );
    }

    /// The whole file; `title` is what screen readers say.
    pub fn finish(self, height: f64, title: &str) -> String {
        let Self { body, width } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" class=\"back\"/>\n{body}</svg>\n"
        )
    }
}
