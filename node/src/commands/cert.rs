//! `weir cert`: issues certificates of this site's authority, and shows what is in one.

use crate::cli::Globals;
use crate::exit::{CommandResult, Exit, Failure};
use crate::units::Span;
use crate::{output, paths};
use serde_json::json;
use std::path::{Path, PathBuf};
use weir_transport::{
    Authority, AuthorityError, CertificateFacts, Clock, CredentialPem, NodeNames, PeerKind,
};

/// The commands of `weir cert`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Issue a client's certificate: NAME.pem and NAME.key
    #[command(after_help = "\
Examples:
  weir cert client gateway-7
  weir cert client gateway-7 --out /media/usb --valid 730d

The client then needs three files: NAME.pem, NAME.key (keep it secret) and the ca.pem that `weir
cert ca` prints. What NAME may do is for [[access.rule]] in the node's configuration to say; the
name `admin` may do everything unless the rules were changed.")]
    Client {
        /// The principal: the name that rights are given to
        name: String,
        #[command(flatten)]
        issue: Issue,
        /// How long it is valid
        #[arg(long, value_name = "DURATION", default_value = "365d")]
        valid: Span,
    },
    /// Issue another node's certificate: NAME.pem and NAME.key
    #[command(after_help = "\
Examples:
  weir cert node edge-2 --san edge-2.site.example --san 10.0.0.2

A node issues its own certificate at its first start; this is for one whose folder shall not hold
the authority's key. Put the files into its data folder as tls/node.pem and tls/node.key, beside
tls/ca.pem.")]
    Node {
        /// The node's name
        name: String,
        #[command(flatten)]
        issue: Issue,
        /// Another DNS name or IP address that it is valid for
        #[arg(long = "san", value_name = "NAME")]
        names: Vec<String>,
        /// How long it is valid
        #[arg(long, value_name = "DURATION", default_value = "3650d")]
        valid: Span,
    },
    /// Show what is in a certificate
    #[command(after_help = "Examples:\n  weir cert show gateway-7.pem")]
    Show {
        /// The certificate (PEM)
        file: PathBuf,
    },
    /// Print the authority's certificate, which clients need to trust the site's nodes
    #[command(after_help = "Examples:\n  weir cert ca > ca.pem")]
    Ca,
}

/// Where issued files go.
#[derive(Debug, clap::Args)]
pub struct Issue {
    /// The folder that the files are written to
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// Runs the command. Works on the data folder, so it needs no running node.
pub async fn run(command: Command, globals: &Globals) -> CommandResult {
    match command {
        Command::Client { name, issue, valid } => {
            let authority = authority(globals)?.0;
            let credential = authority.issue_client(&name, valid.0).map_err(|e| failure(&e))?;
            write(globals, &name, &credential, &issue)
        }
        Command::Node { name, issue, names, valid } => {
            let authority = authority(globals)?.0;
            let mut all = NodeNames::new(&name).map_err(|e| failure(&e))?;
            for name in &names {
                all = all.with(name).map_err(|e| failure(&e))?;
            }
            let credential = authority.issue_node(&all, valid.0).map_err(|e| failure(&e))?;
            write(globals, &name, &credential, &issue)
        }
        Command::Show { file } => show(globals, &file),
        Command::Ca => {
            let (authority, dir) = authority(globals)?;
            if globals.json {
                let path = dir.join("ca.pem");
                return output::print_json(&json!({
                    "file": path, "pem": authority.certificate_pem(),
                    "can_issue": authority.can_issue(),
                }));
            }
            output::print(authority.certificate_pem())
        }
    }
}

/// The authority of the node whose data folder was named or is found on this machine, and the
/// folder of its files.
fn authority(globals: &Globals) -> Result<(Authority, PathBuf), Failure> {
    let default = || paths::default_data_dir().map_err(Failure::usage);
    let data_dir = match &globals.data_dir {
        Some(dir) => dir.clone(),
        None => default()?,
    };
    let mut dir = paths::tls_dir(&data_dir);
    let system = paths::tls_dir(Path::new(paths::SYSTEM_DATA_DIR));
    if globals.data_dir.is_none() && !dir.join("ca.pem").exists() && system.join("ca.pem").exists()
    {
        dir = system;
    }
    match Authority::load(&dir, &Clock::system()) {
        Ok(authority) => Ok((authority, dir)),
        Err(error) => {
            let failure = failure(&error);
            Err(failure.next(
                "run it on a machine where a node has run, as a user who may read its folder; \
                 --data-dir DIR says where that is",
            ))
        }
    }
}

fn failure(error: &AuthorityError) -> Failure {
    match error {
        AuthorityError::InvalidName { .. } => Failure::usage(error.to_string()),
        AuthorityError::NoKey => {
            Failure::new(Exit::Error, error.to_string()).next("run it where tls/ca.key is kept")
        }
        error => Failure::new(Exit::Error, error.to_string()),
    }
}

fn write(
    globals: &Globals,
    name: &str,
    credential: &CredentialPem,
    issue: &Issue,
) -> CommandResult {
    let certificate = issue.out.join(format!("{name}.pem"));
    let key = issue.out.join(format!("{name}.key"));
    let there: Vec<&PathBuf> = [&certificate, &key].into_iter().filter(|p| p.exists()).collect();
    if let Some(path) = there.first().filter(|_| !issue.force) {
        return Err(Failure::new(Exit::Error, format!("{} exists already", path.display()))
            .next("give --force to replace it, or --out DIR for another folder"));
    }
    let failed = |path: &Path, error: std::io::Error| {
        Failure::new(Exit::Error, format!("{}: {error}", path.display()))
    };
    std::fs::create_dir_all(&issue.out).map_err(|error| failed(&issue.out, error))?;
    // The key first: a certificate without its key is of no use to anybody.
    paths::write_private(&key, &credential.key).map_err(|error| failed(&key, error))?;
    std::fs::write(&certificate, &credential.certificate)
        .map_err(|error| failed(&certificate, error))?;
    if globals.json {
        return output::print_json(&json!({ "certificate": certificate, "key": key }));
    }
    output::print_line(&format!("{}\n{} (keep it secret)", certificate.display(), key.display()))
}

fn show(globals: &Globals, file: &Path) -> CommandResult {
    let pem = std::fs::read(file)
        .map_err(|error| Failure::new(Exit::Error, format!("{}: {error}", file.display())))?;
    let facts = CertificateFacts::from_pem(&pem)
        .map_err(|error| Failure::new(Exit::Error, format!("{}: {error}", file.display())))?;
    let kind = match facts.kind {
        PeerKind::Node => "node",
        PeerKind::Client | PeerKind::Anonymous => "client",
    };
    let now = time::OffsetDateTime::from(Clock::system().now());
    let expired = facts.not_after.as_date_time() < now;
    let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
    if globals.json {
        return output::print_json(&json!({
            "principal": facts.principal, "kind": kind, "names": facts.names,
            "addresses": addresses, "not_before": facts.not_before.to_string(),
            "not_after": facts.not_after.to_string(), "expired": expired,
        }));
    }
    let note = if expired { "  EXPIRED" } else { "" };
    let mut text = format!(
        "principal    {}\nkind         {kind}\nvalid from   {}\nvalid until  {}{note}\n",
        facts.principal, facts.not_before, facts.not_after
    );
    if !facts.names.is_empty() || !addresses.is_empty() {
        let all: Vec<String> = facts.names.iter().cloned().chain(addresses).collect();
        text += &format!("valid for    {}\n", all.join(", "));
    }
    output::print(&text)
}
