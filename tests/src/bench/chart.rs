//! The figures as an SVG chart: a panel a scenario, a bar a system, whiskers from the worst to the best
//! run, and a dashed line where Everywrite meets its target.

use std::fmt::Write as _;

use super::scenario::Scenario;
use super::statistics::{Spread, figure};
use super::summary::{Cell, Row};
use super::verdict::Verdict;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 165.0;
/// The bars' width; figures stand to their right.
const BARS: f64 = 490.0;
const BAR: f64 = 18.0;
const STEP: f64 = 24.0;

/// One figure of one scenario.
struct Panel<'a> {
    heading: String,
    unit: &'a str,
    more_is_better: bool,
    bars: Vec<(String, Spread)>,
    needed: Option<f64>,
}

impl Panel<'_> {
    fn height(&self) -> f64 {
        34.0 + self.bars.len() as f64 * STEP + 14.0
    }
}

/// Draws all rows. `subtitle` says what machine and when.
pub(crate) fn draw(rows: &[Row], verdicts: &[Verdict], subtitle: &str) -> String {
    // The second way of catching up has its bar beside the first.
    let main = rows.iter().filter(|row| !row.name.contains('/'));
    let panels: Vec<Panel<'_>> = main.flat_map(|row| panels(row, rows, verdicts)).collect();
    let height = 84.0 + panels.iter().map(Panel::height).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#1d2733\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        20.0,
        32.0,
        "font-size=\"20\" font-weight=\"bold\"",
        "Everywrite and PostgreSQL's own logical replication",
    );
    text(&mut svg, 20.0, 54.0, "fill=\"#5a6877\"", subtitle);
    let mut top = 74.0;
    for panel in &panels {
        panel.draw(&mut svg, top);
        top += panel.height();
    }
    svg.push_str("</svg>\n");
    svg
}

fn panels<'a>(row: &'a Row, rows: &'a [Row], verdicts: &[Verdict]) -> Vec<Panel<'a>> {
    let figures = row.scenario.map_or(&[][..], Scenario::figures);
    let second = format!("{}/paused", row.name);
    let paused = rows
        .iter()
        .filter(|row| row.name == second)
        .flat_map(|row| &row.systems);
    let cells: Vec<(String, &Cell)> = (row.systems.iter().map(|cell| (cell.system.clone(), cell)))
        .chain(paused.map(|cell| (format!("{}/paused", cell.system), cell)))
        .collect();
    figures
        .iter()
        .filter_map(|&(name, unit, more_is_better)| {
            let bars: Vec<(String, Spread)> = cells
                .iter()
                .filter_map(|(label, cell)| Some((label.clone(), *cell.figures.get(name)?)))
                .collect();
            let needed = verdicts
                .iter()
                .find(|verdict| verdict.scenario == row.name && verdict.figure == name)
                .and_then(|verdict| verdict.needed);
            (!bars.is_empty()).then(|| Panel {
                heading: format!("{}  {}", row.name, row.title),
                unit,
                more_is_better,
                bars,
                needed,
            })
        })
        .collect()
}

impl Panel<'_> {
    fn draw(&self, svg: &mut String, top: f64) {
        let direction = if self.more_is_better {
            "more is better"
        } else {
            "less is better"
        };
        text(svg, 20.0, top + 16.0, "font-weight=\"bold\"", &self.heading);
        text(
            svg,
            WIDTH - 20.0,
            top + 16.0,
            "text-anchor=\"end\" fill=\"#5a6877\"",
            &format!("{}, {direction}", self.unit),
        );
        let longest = self
            .bars
            .iter()
            .map(|(_, spread)| spread.max)
            .chain(self.needed)
            .fold(0.0, f64::max);
        let scale = if longest > 0.0 { BARS / longest } else { 0.0 };
        let base = self.bars.first().map(|(_, spread)| spread.median);
        for (index, (system, spread)) in self.bars.iter().enumerate() {
            let y = top + 28.0 + index as f64 * STEP;
            let colour = colour(system);
            text(svg, LEFT - 8.0, y + 13.0, "text-anchor=\"end\"", system);
            let length = (spread.median * scale).max(1.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
            );
            whisker(
                svg,
                LEFT + spread.min * scale,
                LEFT + spread.max * scale,
                y + BAR / 2.0,
            );
            let ratio = base.filter(|_| index > 0).map_or_else(String::new, |base| {
                format!("  ({:.2} x)", spread.median / base)
            });
            text(
                svg,
                LEFT + BARS + 16.0,
                y + 13.0,
                "",
                &format!("{}{ratio}", figure(spread.median)),
            );
        }
        if let Some(needed) = self.needed {
            let (x, bottom) = (
                LEFT + needed * scale,
                top + 26.0 + self.bars.len() as f64 * STEP,
            );
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#c0392b\" stroke-width=\"1.5\" \
                 stroke-dasharray=\"4 3\"/>",
                top + 24.0
            );
            text(
                svg,
                x.clamp(LEFT + 20.0, LEFT + BARS),
                bottom + 11.0,
                "text-anchor=\"middle\" font-size=\"11\" fill=\"#c0392b\"",
                &format!("target {}", figure(needed)),
            );
        }
    }
}

fn whisker(svg: &mut String, from: f64, to: f64, y: f64) {
    if to - from < 1.0 {
        return;
    }
    let (above, below) = (y - 4.0, y + 4.0);
    let _ = writeln!(
        svg,
        "<path d=\"M{from:.1} {y:.1} H{to:.1} M{from:.1} {above:.1} V{below:.1} M{to:.1} {above:.1} V{below:.1}\" stroke=\"#1d2733\" \
         stroke-width=\"1.2\" fill=\"none\"/>"
    );
}

fn colour(system: &str) -> &'static str {
    match system {
        _ if system.starts_with("everywrite18") => "#66c2b3",
        _ if system.starts_with("everywrite") => "#1f9e89",
        "native15" => "#8796a8",
        _ => "#b9c4d0",
    }
}

fn text(svg: &mut String, x: f64, y: f64, attributes: &str, content: &str) {
    let content = content
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{content}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::super::{summary, verdict};
    use super::*;

    #[test]
    fn every_system_has_a_bar_and_text_is_escaped() {
        let records: Vec<Record> = [("native15", 100.0), ("everywrite15", 300.0)]
            .into_iter()
            .map(|(system, rate)| {
                let mut record = Record {
                    system: system.into(),
                    scenario: "c2".into(),
                    ok: true,
                    ..Record::default()
                };
                record.set("rate_per_s", rate);
                record
            })
            .collect();
        let rows = summary::rows(&records);
        let svg = draw(&rows, &verdict::verdicts(&rows), "a <b> & c");
        assert_eq!(svg.matches("rx=\"2\"").count(), 2);
        assert!(
            svg.contains("a &lt;b&gt; &amp; c")
                && svg.contains("(3.00 x)")
                && svg.contains("target 250")
        );
    }
}
