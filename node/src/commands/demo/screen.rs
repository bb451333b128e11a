//! Drawing lines over the ones drawn before, with ANSI escapes (ECMA-48) and nothing else.

use std::io::{self, IsTerminal, Write};

use super::view::{Line, Style};

/// Size of a terminal that does not tell.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// A terminal that is drawn on from where its cursor stands. The cursor is hidden meanwhile.
#[derive(Debug)]
pub struct Screen {
    drawn: usize,
    color: bool,
}

impl Screen {
    /// Stdout, if it is a terminal.
    pub fn open() -> Option<Screen> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if !io::stdout().is_terminal() || dumb {
            return None;
        }
        let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // A terminal that is gone shows nothing.
        let _ = write!(io::stdout(), "\x1b[?25l");
        Some(Screen { drawn: 0, color })
    }

    /// Columns and lines of the terminal now.
    pub fn size(&self) -> (usize, usize) {
        match rustix::termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (usize::from(size.ws_col), usize::from(size.ws_row))
            }
            _ => SIZE_DEFAULT,
        }
    }

    /// Draws `lines` over those drawn last.
    ///
    /// # Errors
    /// The terminal's.
    pub fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        let picture = picture(lines, self.drawn, self.color);
        self.drawn = lines.len();
        let mut stdout = io::stdout().lock();
        stdout.write_all(picture.as_bytes())?;
        stdout.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = io::stdout().lock();
        let _ = write!(stdout, "\x1b[?25h");
        let _ = stdout.flush();
    }
}

/// The bytes that draw `lines` over the `drawn` lines above the cursor.
fn picture(lines: &[Line], drawn: usize, color: bool) -> String {
    let mut out = String::new();
    if drawn > 0 {
        out.push_str(&format!("\x1b[{drawn}A\r"));
    }
    for line in lines {
        let (begin, end) = match line.style {
            Style::Bold if color => ("\x1b[1m", "\x1b[0m"),
            Style::Dim if color => ("\x1b[2m", "\x1b[0m"),
            _ => ("", ""),
        };
        // Erasing behind the text instead of before it does not flicker.
        out.push_str(&format!("{begin}{}{end}\x1b[K\n", line.text));
    }
    // Lines of a taller picture before.
    out.push_str("\x1b[J");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_cover_each_other() {
        let line = |text: &str, style| Line { text: text.into(), style };
        let lines = [line("a", Style::Bold), line("b", Style::Plain)];
        assert_eq!(picture(&lines, 0, true), "\x1b[1ma\x1b[0m\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(picture(&lines, 3, false), "\x1b[3A\ra\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
