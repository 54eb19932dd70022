//! Latency over throughput, as an SVG file: one line for each program, one point for each number of connections.

use std::fmt::Write;

/// One program's line.
pub(crate) struct Series {
    /// What the legend says.
    pub(crate) name: String,
    /// Any colour that SVG knows.
    pub(crate) color: &'static str,
    /// Drawn in dashes.
    pub(crate) dashed: bool,
    /// Operations a second, microseconds, and what stands beside the point.
    pub(crate) points: Vec<(f64, f64, String)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;

/// The drawing. Throughput is linear from zero, latency logarithmic in whole powers of ten.
pub(crate) fn svg(title: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let most = points().map(|point| point.0).fold(1.0, f64::max) * 1.05;
    let power = |value: f64| value.max(1.0).log10();
    let lowest = points().map(|point| power(point.1)).fold(f64::INFINITY, f64::min).min(9.0).floor();
    let highest = points().map(|point| power(point.1)).fold(lowest + 1.0, f64::max).ceil();
    let x = |throughput: f64| LEFT + throughput / most * (WIDTH - LEFT - RIGHT);
    let y = |latency: f64| HEIGHT - BOTTOM - (power(latency) - lowest) / (highest - lowest) * (HEIGHT - TOP - BOTTOM);

    let mut out = String::new();
    let mut add = |line: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{line}");
    };
    add(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">"#
    ));
    add(r#"<rect width="100%" height="100%" fill="white"/>"#.into());
    add(format!(r#"<text x="{LEFT}" y="25" font-size="15">{}</text>"#, escape(title)));
    for exponent in lowest as i32..=highest as i32 {
        let (micros, at) = (10_f64.powi(exponent), y(10_f64.powi(exponent)));
        let label = if micros >= 1000.0 { format!("{} ms", micros / 1000.0) } else { format!("{micros} µs") };
        add(format!(r##"<path d="M{LEFT} {at:.1}H{:.1}" stroke="#ddd"/>"##, WIDTH - RIGHT));
        add(format!(r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#, LEFT - 6.0, at + 4.0));
    }
    for step in 0..=5 {
        let throughput = most * f64::from(step) / 5.0;
        let at = x(throughput);
        add(format!(r##"<path d="M{at:.1} {TOP}V{:.1}" stroke="#eee"/>"##, HEIGHT - BOTTOM));
        add(format!(
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{throughput:.0}</text>"#,
            HEIGHT - BOTTOM + 18.0
        ));
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    add(format!(r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">operations a second</text>"#, HEIGHT - 15.0));
    for (number, one) in series.iter().enumerate() {
        let dashes = if one.dashed { r#" stroke-dasharray="5 4""# } else { "" };
        let line: Vec<String> = one.points.iter().map(|(px, py, _)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        add(format!(
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="2"{dashes}/>"#,
            line.join(" "),
            one.color
        ));
        for (px, py, label) in &one.points {
            let (px, py) = (x(*px), y(*py));
            add(format!(r#"<circle cx="{px:.1}" cy="{py:.1}" r="3" fill="{}"/>"#, one.color));
            add(format!(
                r##"<text x="{:.1}" y="{:.1}" font-size="10" fill="#555">{}</text>"##,
                px + 5.0,
                py - 5.0,
                escape(label)
            ));
        }
        let at = TOP + 18.0 * number as f64;
        let from = WIDTH - RIGHT + 10.0;
        add(format!(r#"<path d="M{from:.1} {at:.1}h24" stroke="{}" stroke-width="2"{dashes}/>"#, one.color));
        add(format!(r#"<text x="{:.1}" y="{:.1}">{}</text>"#, from + 30.0, at + 4.0, escape(&one.name)));
    }
    add("</svg>".into());
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        let points = points.iter().map(|&(x, y)| (x, y, "a<b".to_string())).collect();
        Series { name: "one & two".into(), color: "navy", dashed: true, points }
    }

    /// Every place of a circle in the drawing.
    fn circles(svg: &str) -> Vec<(f64, f64)> {
        let number = |line: &str, name: &str| -> f64 {
            let rest = line.split_once(&format!(" {name}=\"")).unwrap().1;
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        svg.lines().filter(|line| line.starts_with("<circle")).map(|l| (number(l, "cx"), number(l, "cy"))).collect()
    }

    #[test]
    fn more_is_further_right_and_slower_is_higher_and_all_is_inside() {
        let drawing = svg("puts", &[series(&[(10.0, 90.0), (1000.0, 800.0), (5000.0, 120_000.0)])]);
        let circles = circles(&drawing);
        assert_eq!(circles.len(), 3);
        assert!(circles.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 > two[1].1), "{circles:?}");
        assert!(circles.iter().all(|(x, y)| (LEFT..=WIDTH - RIGHT).contains(x) && (TOP..=HEIGHT - BOTTOM).contains(y)));
        assert!(drawing.contains("one &amp; two") && drawing.contains("a&lt;b") && !drawing.contains("NaN"));
    }

    #[test]
    fn nothing_to_draw_is_no_error() {
        for drawing in [svg("empty", &[]), svg("zero", &[series(&[(0.0, 0.0)])])] {
            assert!(!drawing.contains("NaN") && !drawing.contains("inf"), "{drawing}");
        }
    }
}
