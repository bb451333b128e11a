//! How far it is: a bar on a terminal, a line now and then elsewhere.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::acks::AckCounts;
use crate::commands::figures;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows progress on stderr, or does not.
#[derive(Debug)]
pub struct Progress {
    way: Way,
    started: Instant,
}

#[derive(Debug)]
enum Way {
    Silent,
    Lines { last: Instant },
    Bar(ProgressBar),
}

impl Progress {
    /// `bytes_total` is what will be read, if that is known.
    pub fn new(show: bool, terminal: bool, bytes_total: Option<u64>) -> Progress {
        let way = match (show, terminal) {
            (false, _) => Way::Silent,
            (true, false) => Way::Lines { last: Instant::now() },
            (true, true) => Way::Bar(bar(bytes_total)),
        };
        Progress { way, started: Instant::now() }
    }

    /// So much was read and acknowledged.
    pub fn show(&mut self, bytes_read: u64, counts: &AckCounts) {
        if let Way::Bar(bar) = &self.way {
            bar.set_position(bytes_read);
        }
        self.show_counts(counts);
    }

    /// So much was acknowledged.
    pub fn show_counts(&mut self, counts: &AckCounts) {
        let rate = figures::per_second(figures::rate(counts.records, self.started.elapsed()));
        let text = format!("{} records, {rate}/s", figures::thousands(counts.records));
        match &mut self.way {
            Way::Silent => {}
            Way::Bar(bar) => bar.set_message(text),
            Way::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                print_line(&text);
            }
            Way::Lines { .. } => {}
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn print(&self, text: &str) {
        match &self.way {
            Way::Bar(bar) => bar.suspend(|| print_line(text)),
            Way::Lines { .. } | Way::Silent => print_line(text),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Way::Bar(bar) = &self.way {
            bar.finish_and_clear();
        }
    }
}

fn bar(bytes_total: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(5);
    let (bar, template) = match bytes_total {
        Some(total) => {
            let template = "{bar:24} {percent:>3} %  {bytes} of {total_bytes}  {msg}";
            (ProgressBar::with_draw_target(Some(total), target), template)
        }
        None => (ProgressBar::with_draw_target(None, target), "{spinner} {elapsed}  {msg}"),
    };
    // A template that does not parse is a bug which leaves the default look.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()))
}

fn print_line(text: &str) {
    // Progress that cannot be shown is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}
