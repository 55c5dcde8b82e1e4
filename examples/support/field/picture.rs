//! The matrix as an SVG picture, drawn by hand: rectangles and text.

use super::{
    matrix::Matrix,
    words::{advice, short, word},
};
use std::fmt::Write as _;
use tower_reauth::{Denial, OfflinePolicy, Remedy};

const MARGIN: usize = 32;
const CELL: usize = 88;
const ROW: usize = 30;
const LINE: usize = 20;
/// Longer names and sentences are cut, in letters.
const NAME: usize = 40;
const SENTENCE: usize = 240;
/// Of a letter of 13 px; the fonts of machines differ.
const LETTER: usize = 8;

pub(crate) fn svg(policy: &OfflinePolicy, matrix: &Matrix) -> String {
    let rows = matrix.weeks.iter().flat_map(|week| &week.rows);
    let names = rows.map(|row| row.capability.chars().count().min(NAME)).max();
    let grid = MARGIN + (names.unwrap_or(0).max("without network for".len()) + 2) * LETTER;
    let policy = policy.to_string();
    let lines: Vec<String> = policy.lines().map(|line| short(line, SENTENCE)).collect();
    let widest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0) * LETTER + MARGIN;
    let width = (grid + matrix.moments.len() * CELL).max(widest) + MARGIN;

    let mut out = String::new();
    let mut y = MARGIN + 8;
    text(&mut out, MARGIN, y, "title", "What may be done in a week without network");
    y += LINE + 8;
    for line in &lines {
        text(&mut out, MARGIN, y, "", line);
        y += LINE;
    }
    for week in &matrix.weeks {
        y += LINE + 14;
        text(&mut out, MARGIN, y, "week", &week.title());
        y += LINE + 4;
        text(&mut out, MARGIN, y, "dim", "without network for");
        for (column, moment) in matrix.moments.iter().enumerate() {
            text(&mut out, grid + column * CELL + CELL / 2, y, "dim middle", moment);
        }
        y += 8;
        for row in &week.rows {
            text(&mut out, MARGIN, y + ROW / 2 + 5, "", &short(&row.capability, NAME));
            for (column, answer) in row.answers.iter().enumerate() {
                cell(&mut out, grid + column * CELL, y, answer);
            }
            y += ROW;
        }
    }
    y += LINE + 18;
    for denial in matrix.reasons() {
        cell(&mut out, MARGIN, y - ROW / 2 - 5, &Err(denial.clone()));
        let words = format!("{}; what helps: {}", denial.reason(), advice(denial.remedy()));
        text(&mut out, MARGIN + CELL + 12, y, "", &words);
        y += ROW + 2;
    }
    text(
        &mut out,
        MARGIN,
        y + 8,
        "dim",
        "The server decides in the end: what is allowed here may still be refused there.",
    );
    let height = y + MARGIN;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>What may be done in a week without network</title>
<style>
text {{ font: 13px ui-sans-serif, system-ui, "Helvetica Neue", Arial, sans-serif; fill: #1f2328; }}
.title {{ font-size: 20px; font-weight: 600; }}
.week {{ font-weight: 600; }}
.dim {{ fill: #59636e; font-size: 12px; }}
.middle {{ text-anchor: middle; }}
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
{out}</svg>
"##
    )
}

fn cell(out: &mut String, x: usize, y: usize, answer: &Result<(), Denial>) {
    let (word, fill, tip) = match answer {
        Ok(()) => ("yes", "#b7e3c0", "allowed".to_owned()),
        Err(denial) => {
            (word(denial.reason()), fill(denial), format!("{denial}; what helps: {}", advice(denial.remedy())))
        }
    };
    let (width, height) = (CELL - 4, ROW - 4);
    let _ = write!(
        out,
        r#"<g><title>{}</title><rect x="{}" y="{}" width="{width}" height="{height}" rx="4" fill="{fill}"/>"#,
        escaped(&tip),
        x + 2,
        y + 2
    );
    text(out, x + CELL / 2, y + ROW / 2 + 5, "middle", word);
    out.truncate(out.trim_end().len());
    out.push_str("</g>\n");
}

fn fill(denial: &Denial) -> &'static str {
    match denial.remedy() {
        Remedy::Connect => "#fbe3a4",
        Remedy::Unlock | Remedy::SignIn => "#bfdcf7",
        _ => "#f6c5c0",
    }
}

fn text(out: &mut String, x: usize, y: usize, class: &str, words: &str) {
    let _ = writeln!(out, r#"<text x="{x}" y="{y}" class="{class}">{}</text>"#, escaped(words));
}

fn escaped(text: &str) -> String {
    // The letters that XML cannot hold in any way.
    let text = text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
