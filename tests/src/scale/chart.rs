//! The table as an SVG chart: what a node sends a second, over the number of sites, both axes
//! logarithmic.

use std::fmt::Write as _;

use super::cost::Cost;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 50.0;

/// Draws the lines.
pub(super) fn draw(costs: &[Cost], subtitle: &str) -> String {
    type Figure = fn(&Cost) -> f64;
    let lines: [(&str, &str, Figure); 2] = [
        ("transactions", "#1f9e89", |c| c.node_out_data_kb_per_s),
        ("beats", "#c0392b", |c| c.node_out_beats_kb_per_s),
    ];
    let values = || {
        costs
            .iter()
            .flat_map(|c| lines.map(|(_, _, of)| of(c).max(1.0)))
    };
    let low = 10_f64.powf(values().fold(f64::MAX, f64::min).log10().floor());
    let high = 10_f64.powf(values().fold(1.0, f64::max).log10().ceil());
    let sites = |c: &Cost| (c.sites as f64).ln();
    let (first, last) = match costs {
        [first, .., last] => (sites(first), sites(last)),
        _ => (0.0, 1.0),
    };
    let x = |c: &Cost| LEFT + (sites(c) - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        let share = (value.max(low) / low).ln() / (high / low).ln();
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#1d2733\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"20\" y=\"26\" font-size=\"16\" font-weight=\"bold\">What a node sends, kB a second</text>\n\
         <text x=\"20\" y=\"44\" fill=\"#5a6877\">{subtitle}</text>\n"
    );
    let mut step = low;
    while step <= high * 1.01 {
        let at = y(step);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e3e8ee\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{step}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
        step *= 10.0;
    }
    for cost in costs {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(cost),
            HEIGHT - BOTTOM + 20.0,
            cost.sites
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">sites</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 10.0
    );
    for (name, colour, of) in lines {
        let points: Vec<String> = costs
            .iter()
            .map(|c| format!("{:.1},{:.1}", x(c), y(of(c))))
            .collect();
        let end = costs.last().map_or(0.0, |c| y(of(c)));
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            points.join(" "),
            WIDTH - RIGHT + 10.0,
            end + 4.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}
