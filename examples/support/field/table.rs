//! The matrix in a terminal.

use super::{
    matrix::Matrix,
    words::{advice, short, word},
};
use std::fmt::Write as _;
use tower_reauth::{Denial, OfflinePolicy, Remedy};

const CELL: usize = 13;
/// Longer names are cut.
const NAME: usize = 40;

pub(crate) fn table(policy: &OfflinePolicy, matrix: &Matrix, colours: bool) -> String {
    let paint = |text: String, colour: &str| if colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text };
    let rows = matrix.weeks.iter().flat_map(|week| &week.rows);
    let names = rows.map(|row| row.capability.chars().count().min(NAME)).max();
    let names = names.unwrap_or(0).max("without network for".len()) + 2;

    let mut out = format!("{}\n\n{policy}\n", paint("The policy".into(), "1"));
    for week in &matrix.weeks {
        let _ = writeln!(out, "\n{}", paint(week.title(), "1"));
        let heads: String = matrix.moments.iter().map(|moment| format!("{moment:>CELL$}")).collect();
        let _ = writeln!(out, "{}", paint(format!("{:<names$}{heads}", "without network for"), "2"));
        for row in &week.rows {
            let _ = write!(out, "{:<names$}", short(&row.capability, NAME));
            for answer in &row.answers {
                let (text, colour) = match answer {
                    Ok(()) => ("yes", "32"),
                    Err(denial) => (word(denial.reason()), colour(denial)),
                };
                out.push_str(&paint(format!("{text:>CELL$}"), colour));
            }
            out.push('\n');
        }
    }
    out.push('\n');
    for denial in matrix.reasons() {
        let word = paint(format!("{:<CELL$}", word(denial.reason())), colour(denial));
        let _ = writeln!(out, "{word}{}; what helps: {}", denial.reason(), advice(denial.remedy()));
    }
    let _ = writeln!(out, "\nThe gate was asked {} times, and the audit has {} answers.", matrix.asked, matrix.audited);
    out.push_str("The server decides in the end: what is allowed here may still be refused there.\n");
    out
}

fn colour(denial: &Denial) -> &'static str {
    match denial.remedy() {
        Remedy::Connect => "33",
        Remedy::Unlock | Remedy::SignIn => "36",
        _ => "31",
    }
}
