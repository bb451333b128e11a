//! Compiling in a process of its own, so that it is bounded and leaves nothing behind.
//!
//! A compiler is large, takes memory by the hundred times of its input, cannot be interrupted, and
//! may have bugs that hostile input finds. A process can be limited by the system in CPU time and
//! address space, can crash alone, and gives all its memory back. The node starts its own program
//! again with a hidden command that calls [`child_main`]; the component goes in on stdin, machine
//! code comes out on stdout.

use crate::engine::{Engine, EngineError};
use crate::limits::{COMPILE_MEMORY_BYTES_MAX, COMPILE_TIME_MAX, COMPILED_BYTES_MAX};
use crate::limits::{MESSAGE_BYTES_MAX, MODULE_BYTES_MAX};
use crate::load::Sealed;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use thiserror::Error;

/// Why a module is not compiled.
#[derive(Debug, Error)]
pub enum CompileError {
    /// The compiler refused it.
    #[error("the module does not compile: {0}")]
    Refused(String),
    /// It took too long or too much memory, or the compiler failed on it.
    #[error(
        "compiling the module was given up ({how}): the limits are {} s of CPU time and {} MiB",
        COMPILE_TIME_MAX.as_secs(), COMPILE_MEMORY_BYTES_MAX >> 20
    )]
    GivenUp {
        /// How the process ended.
        how: String,
    },
    /// The process could not be run.
    #[error("the compiler cannot be run: {0}")]
    Io(#[from] io::Error),
}

/// Where modules are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process, for command-line programs that end soon.
    Here,
    /// In a process of its own: this program with these arguments must call [`child_main`].
    Child {
        /// The program, usually that of the node itself.
        program: std::path::PathBuf,
        /// Its arguments.
        args: Vec<String>,
    },
}

impl Compiler {
    /// Compiles a checked component. Blocks, for up to a minute.
    ///
    /// # Errors
    /// If it does not compile within the limits.
    pub(crate) fn compile(
        &self,
        engine: &Engine,
        component: &[u8],
    ) -> Result<Sealed, CompileError> {
        let code = match self {
            Compiler::Here => {
                let code = engine.precompile(component);
                code.map_err(|EngineError { reason }| CompileError::Refused(reason))?
            }
            Compiler::Child { program, args } => in_child(program, args, component)?,
        };
        Ok(Sealed::compiled_here(code))
    }
}

fn in_child(
    program: &std::path::Path,
    args: &[String],
    component: &[u8],
) -> Result<Vec<u8>, CompileError> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (mut code, mut said) = (Vec::new(), Vec::new());
    let talked = talk(&mut child, component, &mut code, &mut said);
    // Whatever went wrong, it must not stay as a zombie; its limits end it if it runs on.
    if talked.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    if status.success() && talked.is_ok() {
        return Ok(code);
    }
    match (status.code(), status.signal()) {
        (Some(REFUSED), _) => Err(CompileError::Refused(String::from_utf8_lossy(&said).into())),
        (_, Some(signal)) => Err(CompileError::GivenUp { how: format!("signal {signal}") }),
        (code, _) => {
            let code = code.unwrap_or_default();
            Err(CompileError::GivenUp { how: format!("exit code {code}") })
        }
    }
}

/// Feeds the child, which reads all before it writes anything, and takes what it writes.
fn talk(
    child: &mut Child,
    component: &[u8],
    code: &mut Vec<u8>,
    said: &mut Vec<u8>,
) -> io::Result<()> {
    let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
    let mut stdin = child.stdin.take().ok_or_else(broken)?;
    // A child that ends early has said why; that counts, not the pipe.
    let _ = stdin.write_all(component);
    drop(stdin);
    let stdout = child.stdout.take().ok_or_else(broken)?;
    let read = stdout.take(COMPILED_BYTES_MAX as u64 + 1).read_to_end(code)?;
    let stderr = child.stderr.take().ok_or_else(broken)?;
    stderr.take(MESSAGE_BYTES_MAX as u64).read_to_end(said)?;
    if read > COMPILED_BYTES_MAX { Err(broken()) } else { Ok(()) }
}

/// Exit code of a child whose compiler refused the module.
const REFUSED: i32 = 3;

/// What the child does: limits itself, reads a component from stdin, writes machine code to stdout.
/// Returns the exit code.
#[must_use]
pub fn child_main() -> i32 {
    let seconds = COMPILE_TIME_MAX.as_secs();
    let limit = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    let limited = setrlimit(Resource::Cpu, limit(seconds))
        .and_then(|()| setrlimit(Resource::As, limit(COMPILE_MEMORY_BYTES_MAX as u64)))
        .and_then(|()| setrlimit(Resource::Core, limit(0)));
    let compiled = limited.map_err(|error| error.to_string()).and_then(|()| {
        let mut component = Vec::new();
        let stdin = io::stdin().lock().take(MODULE_BYTES_MAX as u64 + 1);
        { stdin }.read_to_end(&mut component).map_err(|error| error.to_string())?;
        let engine = Engine::new().map_err(|error| error.to_string())?;
        engine.precompile(&component).map_err(|error| error.reason)
    });
    let written = compiled.and_then(|code| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&code).and_then(|()| stdout.flush()).map_err(|error| error.to_string())
    });
    match written {
        Ok(()) => 0,
        Err(reason) => {
            // The parent reads it where it still listens.
            let _ = io::stderr().write_all(reason.as_bytes());
            REFUSED
        }
    }
}
