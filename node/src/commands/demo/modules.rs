//! Two example modules at work in the demo's node, on what the demo collects.
//!
//! The repository has them as source. They are built in the background the first time, as
//! `cargo xtask guests` does; a program that runs elsewhere is told where they are with
//! `--modules`, or goes without.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use weir_client::Client;
use weir_core::deploy::{DeploymentKind, DeploymentSpec, OnError, Version};
use weir_core::module::name::ModuleRef;
use weir_wasm::Upload;

use super::sources::{GPS_TOPIC, HOST_TOPIC};

/// Longest time that building them may take.
const BUILD_MAX: Duration = Duration::from_secs(20 * 60);
/// How often a build is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A module, and what it makes of which topic.
#[derive(Debug)]
pub struct Example {
    /// The module, and its deployment.
    pub name: &'static str,
    /// What it reads.
    pub from: &'static str,
    /// What it makes: a topic with as many partitions.
    pub to: &'static str,
    params: &'static [(&'static str, &'static str)],
    /// What it does, in some words.
    pub about: &'static str,
}

/// The modules of the demo.
pub const EXAMPLES: [Example; 2] = [
    Example {
        name: "gps-deadband",
        from: GPS_TOPIC,
        to: "gps.moved",
        params: &[("metres", "100"), ("seconds", "60")],
        about: "positions 100 m apart",
    },
    Example {
        name: "tumbling-window",
        from: HOST_TOPIC,
        to: "host.cpu",
        params: &[("field", "usage_percent"), ("seconds", "5")],
        about: "CPU over windows of 5 s",
    },
];

/// Where the modules come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From this folder.
    Folder(PathBuf),
    /// From the repository at this path, which has yet to build them.
    Repository(PathBuf),
    /// From nowhere, for this reason.
    None(String),
}

impl Origin {
    /// Where they are: in `folder` if that is given, else in the repository that Cargo runs this
    /// program from.
    #[must_use]
    pub fn find(folder: Option<&Path>) -> Origin {
        if let Some(folder) = folder {
            return Origin::Folder(folder.to_owned());
        }
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let root = package.as_deref().and_then(Path::parent).map(Path::to_owned);
        let Some(root) = root.filter(|root| root.join("guest-examples/Cargo.toml").exists()) else {
            let why = "none; name the folder of the built examples with --modules";
            return Origin::None(why.to_owned());
        };
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let guests = target.unwrap_or_else(|| root.join("target")).join("guests");
        match EXAMPLES.iter().all(|example| file(&guests, example).exists()) {
            true => Origin::Folder(guests),
            false => Origin::Repository(root),
        }
    }

    /// Builds the modules if need be, and deploys them.
    ///
    /// # Errors
    /// In words, why there are none.
    ///
    /// # Cancel safety
    /// Dropping the future ends a build that is under way; the next one goes on with it.
    pub async fn deploy(self, client: &Client, log: &Path) -> Result<(), String> {
        let folder = match self {
            Origin::None(why) => return Err(why),
            Origin::Folder(folder) => folder,
            Origin::Repository(root) => {
                build(&root, log).await?;
                match Origin::find(None) {
                    Origin::Folder(folder) => folder,
                    _ => return Err(format!("not built; {} says why", log.display())),
                }
            }
        };
        for example in &EXAMPLES {
            deploy(client, &folder, example)
                .await
                .map_err(|error| format!("{}: {error}", example.name))?;
        }
        Ok(())
    }
}

fn file(folder: &Path, example: &Example) -> PathBuf {
    folder.join(example.name.replace('-', "_")).with_extension("wasm")
}

async fn build(root: &Path, log: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("not built: {error}");
    let said = File::create(log).map_err(failed)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["xtask", "guests", "--install"])
        .current_dir(root)
        // Set by Cargo for this package; a build of others must not see them.
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("CARGO_PKG_NAME")
        .stdin(Stdio::null())
        .stdout(said.try_clone().map_err(failed)?)
        .stderr(said);
    let mut build = Build(command.spawn().map_err(failed)?);
    match build.ended().await.map_err(failed)? {
        Some(status) if status.success() => Ok(()),
        _ => Err(format!("not built; {} says why", log.display())),
    }
}

/// A build under way. It ends with this.
struct Build(Child);

impl Build {
    /// How it ended; `None` if it took too long.
    async fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let begun = Instant::now();
        while begun.elapsed() < BUILD_MAX {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn deploy(client: &Client, folder: &Path, example: &Example) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let bytes = std::fs::read(file(folder, example)).map_err(|error| told(&error))?;
    let upload = Upload::of_file(bytes.into()).map_err(|error| told(&error))?;
    let module: ModuleRef = format!("{}@1.0.0", example.name)
        .parse()
        .map_err(|error: weir_core::module::ModuleError| told(&error))?;
    let admin = client.admin();
    let pushed = admin.push_module(module.clone(), upload.component, |_| {}).await;
    pushed.map_err(|error| told(&error))?;
    if admin.deployment(example.name).await.is_ok() {
        // An earlier demo's, in a folder that was kept.
        return Ok(());
    }
    let given = example.params.iter();
    let params: BTreeMap<_, _> = given.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let spec = DeploymentSpec {
        kind: DeploymentKind::Transform,
        version: Version { module, params },
        from: example.from.to_owned(),
        to: vec![example.to.to_owned()],
        on_error: OnError::Skip,
        dead_letter: None,
        from_latest: false,
        retries: 0,
        lateness_ms: 0,
        cpu_percent: 0,
        log_topic: None,
        http: None,
    };
    let created = admin.create_deployment(example.name, spec).await;
    created.map_err(|error| told(&error))?;
    Ok(())
}
