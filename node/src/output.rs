//! What commands print: tables for people, JSON for programs.
//!
//! Results go to stdout, everything else to stderr. Writing never panics; a closed pipe ends the
//! command quietly ([`crate::exit::Exit::OutputClosed`]).

use crate::exit::CommandResult;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Prints `text` as it is.
pub fn print(text: &str) -> CommandResult {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Prints one line.
pub fn print_line(line: &str) -> CommandResult {
    print(&format!("{line}\n"))
}

/// Prints `value` as JSON: indented on a terminal, on one line otherwise.
pub fn print_json<T: Serialize + ?Sized>(value: &T) -> CommandResult {
    let text = if std::io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    print_line(&text.map_err(std::io::Error::other)?)
}

/// Prints a remark for people on stderr; programs that asked for JSON are spared it.
pub fn note(json: bool, text: &str) {
    if !json {
        // A remark that cannot be shown is no reason to fail.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a header line and columns as wide as their contents.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table. A header that begins with `>` makes a right-aligned column.
    pub fn new(headers: &[&'static str]) -> Table {
        let column = |header: &&'static str| match header.strip_prefix('>') {
            Some(header) => (header, Align::Right),
            None => (*header, Align::Left),
        };
        Table { columns: headers.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The table as text, every line ended.
    pub fn render(&self) -> String {
        let width = |n: usize, header: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(n));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(header.len())
        };
        let widths: Vec<usize> =
            self.columns.iter().enumerate().map(|(n, (header, _))| width(n, header)).collect();
        let headers: Vec<&str> = self.columns.iter().map(|(header, _)| *header).collect();
        let mut text = String::new();
        self.render_line(&mut text, &headers, &widths);
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            self.render_line(&mut text, &cells, &widths);
        }
        text
    }

    fn render_line(&self, text: &mut String, cells: &[&str], widths: &[usize]) {
        let start = text.len();
        for (n, ((cell, width), (_, align))) in
            cells.iter().zip(widths).zip(&self.columns).enumerate()
        {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            if n > 0 {
                text.push_str("  ");
            }
            match align {
                Align::Left => text.extend([*cell, &padding]),
                Align::Right => text.extend([&padding, *cell]),
            }
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
    }
}

/// The name most like `wanted` among `names`, if one is like it at all.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(wanted.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let mut table = Table::new(&["TOPIC", ">BYTES"]);
        table.row(["gps".into(), "7".into()]);
        table.row(["température".into(), "1024".into()]);
        assert_eq!(table.render(), "TOPIC        BYTES\ngps              7\ntempérature   1024\n");
    }

    #[test]
    fn near_names() {
        let names = ["gps.raw", "gps.clean", "host"];
        assert_eq!(nearest("gps.rwa", names), Some("gps.raw"));
        assert_eq!(nearest("hots", names), Some("host"));
        assert_eq!(nearest("orders", names), None);
    }
}
