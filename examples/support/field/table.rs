//! The matrix in a terminal.

use super::{
    matrix::Matrix,
    words::{advice, word},
};
use std::io::IsTerminal;
use tower_reauth::{Denial, OfflinePolicy, Remedy};

const CELL: usize = 13;

pub(crate) fn print(policy: &OfflinePolicy, matrix: &Matrix) {
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    let paint = |text: String, colour: &str| if colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text };
    let names = matrix.weeks.iter().flat_map(|week| &week.rows).map(|row| row.capability.chars().count()).max();
    let names = names.unwrap_or(0).max("without network for".len()) + 2;

    println!("{}\n\n{policy}", paint("The policy".into(), "1"));
    for week in &matrix.weeks {
        println!("\n{}", paint(week.title(), "1"));
        let heads: String = matrix.moments.iter().map(|moment| format!("{moment:>CELL$}")).collect();
        println!("{}", paint(format!("{:<names$}{heads}", "without network for"), "2"));
        for row in &week.rows {
            print!("{:<names$}", row.capability);
            for answer in &row.answers {
                let (text, colour) = match answer {
                    Ok(()) => ("yes", "32"),
                    Err(denial) => (word(denial.reason()), colour(denial)),
                };
                print!("{}", paint(format!("{text:>CELL$}"), colour));
            }
            println!();
        }
    }
    println!();
    for denial in matrix.reasons() {
        let word = paint(format!("{:<CELL$}", word(denial.reason())), colour(denial));
        println!("{word}{}; what helps: {}", denial.reason(), advice(denial.remedy()));
    }
    println!("\nThe gate was asked {} times, and the audit has {} answers.", matrix.asked, matrix.audited);
    println!("The server decides in the end: what is allowed here may still be refused there.");
}

fn colour(denial: &Denial) -> &'static str {
    match denial.remedy() {
        Remedy::Connect => "33",
        Remedy::Unlock | Remedy::SignIn => "36",
        _ => "31",
    }
}
