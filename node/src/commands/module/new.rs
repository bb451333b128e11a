//! `weir module new`.

use super::sdk_files::{self, FILES};
use crate::cli::Globals;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// Arguments of `weir module new`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir module new filter hot-only
  weir module new transform fahrenheit

Makes a folder NAME with a Cargo project that builds and works as it is, and a copy of the guest
SDK.
Then: cd NAME && weir module build && weir module test NAME.wasm --input FILE")]
pub struct Args {
    /// What it is for
    #[arg(value_enum)]
    world: Template,
    /// The module's name: lower-case letters, digits and -
    name: String,
    /// The folder that the project's folder is made in
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Template {
    /// Keeps or drops records of a subscription
    Filter,
    /// Makes records out of records, exactly once
    Transform,
    /// Reads records and does something with them
    Consumer,
    /// Validates or rewrites records before they are appended
    ProduceCheck,
}

const MANIFEST: &str = include_str!("template/Cargo.toml.txt");

impl Template {
    fn source(self) -> &'static str {
        match self {
            Template::Filter => include_str!("template/filter.rs.txt"),
            Template::Transform => include_str!("template/transform.rs.txt"),
            Template::Consumer => include_str!("template/consumer.rs.txt"),
            Template::ProduceCheck => include_str!("template/produce-check.rs.txt"),
        }
    }
}

pub fn run(args: &Args, globals: &Globals) -> CommandResult {
    let name = &args.name;
    let may = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(may) {
        return Err(Failure::usage(format!("`{name}` is no name for a module"))
            .next("use a to z, 0 to 9 and -, and begin with a letter"));
    }
    let project = args.dir.join(name);
    if project.exists() {
        return Err(Failure::new(Exit::Error, format!("{} exists already", project.display()))
            .next("choose another name, or remove it"));
    }
    write(&project, "Cargo.toml", &MANIFEST.replace("{name}", name))?;
    write(&project, "src/lib.rs", args.world.source())?;
    write(&project, ".gitignore", "/target\n*.wasm\n")?;
    for (path, text) in FILES {
        write(&project, path, &sdk_files::standalone(text))?;
    }
    if globals.json {
        return output::print_json(&json!({ "project": project }));
    }
    let file = format!("{}.wasm", name.replace('-', "_"));
    output::print(&format!(
        "{0}: a module that works, to be changed\n\n  cd {0}\n  weir module build\n  \
         weir module test {file} --input FILE\n",
        project.display()
    ))
}

fn write(project: &Path, path: &str, text: &str) -> CommandResult {
    let path = project.join(path);
    let written = match path.parent() {
        Some(folder) => fs::create_dir_all(folder).and_then(|()| fs::write(&path, text)),
        None => fs::write(&path, text),
    };
    written.map_err(|error| Failure::new(Exit::Error, format!("{}: {error}", path.display())))
}
