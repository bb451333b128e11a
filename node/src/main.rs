//! `weir`: the node and its command line in one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_node::main()
}
