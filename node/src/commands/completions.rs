//! `weir completions`: scripts that complete commands and options in a shell.

use crate::cli::definition;
use crate::exit::CommandResult;
use crate::output;
use clap_complete::Shell;

/// Arguments of `weir completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir completions bash > ~/.local/share/bash-completion/completions/weir
  weir completions zsh > \"${fpath[1]}/_weir\"
  weir completions fish > ~/.config/fish/completions/weir.fish")]
pub struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "weir", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
