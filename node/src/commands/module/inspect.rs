//! `weir module inspect`.

use crate::cli::Globals;
use crate::exit::CommandResult;
use crate::output::{self, Table};
use crate::units::human_bytes;
use serde_json::json;
use std::path::PathBuf;
use weir_wasm::abi::{Description, ParameterKind, ParameterValue};
use weir_wasm::columns::ColumnSet;
use weir_wasm::{GuestLimits, Upload, World};

/// Arguments of `weir module inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir module inspect gps_geofence.wasm
  weir module inspect gps_geofence.wasm --json | jq .sha256")]
pub struct Args {
    /// The module: a component, or a core module with embedded WIT
    file: PathBuf,
}

pub async fn run(args: &Args, globals: &Globals) -> CommandResult {
    let upload = super::read(&args.file)?;
    let module = super::prepare(&args.file, &upload).await?;
    let description = module.description();
    let limits = default_limits(upload.world);
    if globals.json {
        return output::print_json(&as_json(&upload, description, &limits));
    }
    output::print(&as_text(&upload, description, &limits))
}

/// What a deployment of this world gets that says nothing else.
pub fn default_limits(world: World) -> GuestLimits {
    match world {
        World::ProduceCheck => GuestLimits::PRODUCE,
        World::Filter | World::Transform | World::Consumer => GuestLimits::DEFAULT,
    }
}

fn columns(description: &Description) -> Vec<&'static str> {
    let all = [
        (ColumnSet::TIMESTAMPS, "timestamps"),
        (ColumnSet::KEYS, "keys"),
        (ColumnSet::VALUES, "values"),
        (ColumnSet::HEADERS, "headers"),
        (ColumnSet::WATERMARKS, "watermarks"),
    ];
    let looked_at = all.into_iter().filter(|(flag, _)| description.columns.contains(*flag));
    looked_at.map(|(_, name)| name).collect()
}

fn kind(kind: ParameterKind) -> &'static str {
    match kind {
        ParameterKind::Text => "text",
        ParameterKind::Integer => "integer",
        ParameterKind::Number => "number",
        ParameterKind::Boolean => "boolean",
    }
}

fn as_text(upload: &Upload, description: &Description, limits: &GuestLimits) -> String {
    let form = if upload.was_core_module { "core module" } else { "component" };
    let schema = match description.state_schema {
        0 => "none".to_owned(),
        number if upload.migrates => format!("schema {number}, migrates from others"),
        number => format!("schema {number}"),
    };
    let mut text = format!(
        "world     {}\nabout     {}\nsha256    {}\nsize      {} as a component (given: {form}), \
         {} functions\nreads     {}\nimports   {}\nstate     {schema}\nlimits    {}\n",
        upload.world,
        description.about,
        upload.hash,
        human_bytes(upload.component.len() as u64),
        upload.functions,
        columns(description).join(", "),
        if upload.imports.is_empty() { "nothing".into() } else { upload.imports.join(", ") },
        limits_text(limits),
    );
    if upload.world == World::Consumer {
        text += &format!("          {}\n", http_text(limits));
    }
    if !description.parameters.is_empty() {
        let mut table = Table::new(&["PARAMETER", "TYPE", "DEFAULT", "ABOUT"]);
        for parameter in &description.parameters {
            let default = match (&parameter.default, parameter.required) {
                (Some(default), _) => default.to_string(),
                (None, true) => "(required)".into(),
                (None, false) => "(none)".into(),
            };
            let (name, about) = (parameter.name.clone(), parameter.about.clone());
            table.row([name, kind(parameter.kind).into(), default, about]);
        }
        text += &format!("\n{}", table.render());
    }
    text
}

fn limits_text(limits: &GuestLimits) -> String {
    format!(
        "{} memory, {} ms of CPU a call, {} of output, {} of state changes, {} log lines",
        human_bytes(limits.memory_bytes as u64),
        limits.cpu_per_call.as_millis(),
        human_bytes(limits.output_bytes as u64),
        human_bytes(limits.state_bytes as u64),
        limits.log_lines,
    )
}

/// What a consumer gets besides, where hosts are granted to it.
fn http_text(limits: &GuestLimits) -> String {
    format!(
        "with --allow-http: {} requests a call, {} s each, {} s of waiting a call, responses of {}",
        limits.http_requests,
        limits.http_timeout.as_secs(),
        limits.http_wait.as_secs(),
        human_bytes(limits.http_response_bytes as u64),
    )
}

fn as_json(upload: &Upload, description: &Description, limits: &GuestLimits) -> serde_json::Value {
    let value = |value: &ParameterValue| match value {
        ParameterValue::Text(text) => json!(text),
        ParameterValue::Integer(integer) => json!(integer),
        ParameterValue::Number(number) => json!(number),
        ParameterValue::Boolean(boolean) => json!(boolean),
    };
    let parameters: Vec<_> = description
        .parameters
        .iter()
        .map(|parameter| {
            json!({
                "name": parameter.name, "type": kind(parameter.kind),
                "required": parameter.required, "about": parameter.about,
                "default": parameter.default.as_ref().map(value),
            })
        })
        .collect();
    json!({
        "world": upload.world.to_string(), "about": description.about,
        "sha256": upload.hash.to_string(), "size_bytes": upload.component.len(),
        "functions": upload.functions, "imports": upload.imports, "exports": upload.exports,
        "columns": columns(description), "parameters": parameters,
        "state_schema": description.state_schema, "migrates": upload.migrates,
        "limits": {
            "memory_bytes": limits.memory_bytes, "table_entries": limits.table_entries,
            "instances": limits.instances,
            "cpu_per_call_ms": limits.cpu_per_call.as_millis() as u64,
            "output_bytes": limits.output_bytes, "output_records": limits.output_records,
            "state_bytes": limits.state_bytes, "log_lines": limits.log_lines,
            "http_requests": limits.http_requests,
            "http_timeout_ms": limits.http_timeout.as_millis() as u64,
            "http_wait_ms": limits.http_wait.as_millis() as u64,
            "http_response_bytes": limits.http_response_bytes,
        },
    })
}
