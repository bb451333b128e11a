//! Licences, bans and sources of dependencies: `deny.toml` against `cargo metadata`.
//!
//! The file's format is cargo-deny's. This reads the parts of it that the project uses and refuses
//! settings that it does not know, so that the two never disagree in silence.

use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};
use std::collections::{BTreeMap, BTreeSet};

/// The registry that every dependency comes from, as cargo names it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// `cargo xtask licences`.
///
/// # Errors
/// If a dependency breaks a rule.
pub fn run(args: &[String]) -> Result<()> {
    ensure!(args.is_empty(), "licences takes no arguments");
    let file = workspace::root().join("deny.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let rules = Rules::parse(&text)?;
    let packages = packages(&workspace::metadata()?)?;
    let faults = check(&rules, &packages);
    for fault in &faults {
        eprintln!("  {fault}");
    }
    if !faults.is_empty() {
        bail!("{} dependencies or licences break deny.toml", faults.len());
    }
    println!("{} packages keep to deny.toml (advisories are not checked here)", packages.len());
    Ok(())
}

/// What deny.toml asks for.
struct Rules {
    licences: Vec<Licensee>,
    /// Banned packages, and those that may depend on them all the same.
    banned: BTreeMap<String, BTreeSet<String>>,
    single: BTreeSet<String>,
}

impl Rules {
    fn parse(text: &str) -> Result<Rules> {
        let table: toml::Table = text.parse().context("deny.toml")?;
        only(&table, &["graph", "licenses", "bans", "sources"], "deny.toml")?;
        let section = |name: &str| {
            table.get(name).and_then(toml::Value::as_table).with_context(|| format!("no [{name}]"))
        };
        let licenses = section("licenses")?;
        only(licenses, &["allow", "private"], "[licenses]")?;
        let mut rules =
            Rules { licences: Vec::new(), banned: BTreeMap::new(), single: BTreeSet::new() };
        for name in array(licenses, "allow")? {
            let name = name.as_str().context("[licenses] allow holds names")?;
            rules.licences.push(Licensee::parse(name)?);
        }
        let bans = section("bans")?;
        let known = ["multiple-versions", "wildcards", "allow-wildcard-paths", "deny"];
        only(bans, &known, "[bans]")?;
        for entry in array(bans, "deny")? {
            let entry = entry.as_table().context("[bans] deny holds tables")?;
            only(entry, &["crate", "deny-multiple-versions", "wrappers"], "[bans] deny")?;
            let name = entry.get("crate").and_then(toml::Value::as_str);
            let name = name.context("[bans] deny without crate")?.to_owned();
            let wrappers = entry.get("wrappers").map(|_| array(entry, "wrappers")).transpose()?;
            let wrappers = wrappers.into_iter().flatten().map(|wrapper| {
                wrapper.as_str().map(str::to_owned).context("[bans] deny wrappers holds names")
            });
            let wrappers = wrappers.collect::<Result<BTreeSet<_>>>()?;
            match entry.get("deny-multiple-versions").and_then(toml::Value::as_bool) {
                Some(true) => {
                    rules.single.insert(name);
                }
                _ => {
                    rules.banned.insert(name, wrappers);
                }
            }
        }
        let sources = section("sources")?;
        for key in ["unknown-registry", "unknown-git"] {
            let value = sources.get(key).and_then(toml::Value::as_str);
            ensure!(value == Some("deny"), "[sources] {key} must be \"deny\"");
        }
        Ok(rules)
    }
}

fn only(table: &toml::Table, known: &[&str], place: &str) -> Result<()> {
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => bail!("{place}: {key} is not understood by xtask: teach it, or leave it out"),
        None => Ok(()),
    }
}

fn array<'t>(table: &'t toml::Table, key: &str) -> Result<&'t Vec<toml::Value>> {
    table.get(key).and_then(toml::Value::as_array).with_context(|| format!("no list {key}"))
}

/// One package that the workspace is built from.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for members of the workspace and path dependencies.
    source: Option<String>,
    /// Names of dependencies that are asked for as `*`, paths excepted.
    wildcards: Vec<String>,
    /// Names of the packages that it is built with.
    on: Vec<String>,
}

/// The packages that the workspace really resolves to, development ones included.
fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("metadata without resolve")?;
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let all = metadata["packages"].as_array().context("metadata without packages")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let names: BTreeMap<&str, &str> =
        all.iter().filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?))).collect();
    let built_with = |id: &Value| {
        let node = nodes.iter().find(|node| node["id"] == *id);
        let on = node.and_then(|node| node["dependencies"].as_array()).into_iter().flatten();
        on.filter_map(|id| names.get(id.as_str()?).map(|&name| name.to_owned())).collect()
    };
    let mut packages = Vec::new();
    for package in all {
        if !package["id"].as_str().is_some_and(|id| used.contains(id)) {
            continue;
        }
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        packages.push(Package {
            name: text(&package["name"]).context("a package without a name")?,
            version: text(&package["version"]).context("a package without a version")?,
            license: text(&package["license"]),
            source: text(&package["source"]),
            wildcards: dependencies
                .filter(|on| on["req"] == "*" && on["path"].is_null())
                .filter_map(|on| text(&on["name"]))
                .collect(),
            on: built_with(&package["id"]),
        });
    }
    ensure!(!packages.is_empty(), "metadata without used packages");
    Ok(packages)
}

fn check(rules: &Rules, packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        let (name, version) = (package.name.as_str(), package.version.as_str());
        versions.entry(name).or_default().insert(version);
        if let Err(fault) = check_licence(rules, package.license.as_deref()) {
            faults.push(format!("{name} {version}: {fault}"));
        }
        if let Some(wrappers) = rules.banned.get(name) {
            let users = packages.iter().filter(|user| user.on.iter().any(|on| on == name));
            let users: Vec<&str> = users.map(|user| user.name.as_str()).collect();
            if users.is_empty() || users.iter().any(|user| !wrappers.contains(*user)) {
                let users = users.join(", ");
                faults
                    .push(format!("{name} {version}: banned (for {users}); see deny.toml for why"));
            }
        }
        match package.source.as_deref() {
            None | Some(REGISTRY) => {}
            Some(other) => faults.push(format!("{name} {version}: comes from {other}")),
        }
        if package.source.is_none() {
            for on in &package.wildcards {
                faults.push(format!("{name} {version}: depends on any version of {on}"));
            }
        }
    }
    for (name, versions) in versions {
        if versions.len() > 1 && rules.single.contains(name) {
            let versions: Vec<&str> = versions.into_iter().collect();
            faults.push(format!("{name}: one version is allowed, found {}", versions.join(", ")));
        }
    }
    faults
}

fn check_licence(rules: &Rules, license: Option<&str>) -> Result<(), String> {
    let text = license.ok_or("states no licence")?;
    // LAX: old packages write MIT/Apache-2.0.
    let expression = Expression::parse_mode(text, ParseMode::LAX)
        .map_err(|error| format!("licence {text:?} is not understood: {}", error.reason))?;
    let allowed =
        expression.evaluate(|asked| rules.licences.iter().any(|has| has.satisfies(asked)));
    allowed.then_some(()).ok_or_else(|| format!("licence {text:?} is not in the allow list"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RULES: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0"]
        [bans]
        deny = [{ crate = "openssl" }, { crate = "old-dates", wrappers = ["engine"] },
            { crate = "tokio", deny-multiple-versions = true }]
        [sources]
        unknown-registry = "deny"
        unknown-git = "deny"
    "#;

    fn faults(packages_json: Value) -> Vec<String> {
        let ids: Vec<Value> = packages_json
            .as_array()
            .unwrap()
            .iter()
            .filter(|package| package["unused"].is_null())
            .map(|package| json!({ "id": package["id"], "dependencies": package["on"] }))
            .collect();
        let metadata = json!({ "packages": packages_json, "resolve": { "nodes": ids } });
        check(&Rules::parse(RULES).unwrap(), &packages(&metadata).unwrap())
    }

    fn package(name: &str, version: &str, license: &str) -> Value {
        json!({
            "id": format!("{name}@{version}"), "name": name, "version": version,
            "license": license, "source": REGISTRY, "dependencies": [],
        })
    }

    /// Goal: each rule is seen to be broken, alone, and a clean list passes. Method: a made-up
    /// metadata snippet per rule.
    #[test]
    fn every_rule_bites() {
        assert_eq!(faults(json!([package("good", "1.0.0", "MIT OR GPL-3.0-only")])), [""; 0]);
        assert_eq!(faults(json!([package("old-style", "1.0.0", "MIT/Apache-2.0")])), [""; 0]);

        let expect = |packages: Value, word: &str| {
            let faults = faults(packages);
            assert!(faults.len() == 1 && faults[0].contains(word), "{word}: {faults:?}");
        };
        expect(json!([package("copyleft", "1.0.0", "GPL-3.0-only")]), "allow list");
        expect(json!([package("both", "1.0.0", "MIT AND GPL-3.0-only")]), "allow list");
        expect(json!([package("odd", "1.0.0", "Whatever I Like")]), "not understood");
        expect(json!([package("openssl", "0.10.0", "MIT")]), "banned");
        let tokios = json!([package("tokio", "1.0.0", "MIT"), package("tokio", "2.0.0", "MIT")]);
        expect(tokios, "one version");

        let with = |name: &str| {
            let mut user = package(name, "1.0.0", "MIT");
            user["on"] = json!(["old-dates@1.0.0"]);
            user
        };
        let dates = package("old-dates", "1.0.0", "MIT");
        assert_eq!(faults(json!([dates, with("engine")])), [""; 0]);
        expect(json!([dates, with("engine"), with("other")]), "engine, other");
        expect(json!([dates]), "banned");

        let changed = |key: &str, value: Value| {
            let mut package = package("changed", "1.0.0", "MIT");
            package[key] = value;
            json!([package])
        };
        expect(changed("license", Value::Null), "states no licence");
        expect(changed("source", json!("git+https://example.invalid/x")), "comes from");
        let star = json!([{ "name": "anything", "req": "*" }]);
        let mut member = package("member", "1.0.0", "MIT");
        member["source"] = Value::Null;
        member["dependencies"] = star;
        expect(json!([member]), "any version");

        // What the resolver left out is not in the binary, so it may be anything.
        let mut unused = package("openssl", "0.10.0", "GPL-3.0-only");
        unused["unused"] = json!(true);
        assert_eq!(faults(json!([unused, package("good", "1.0.0", "MIT")])), [""; 0]);
    }

    /// Goal: a setting that this code would ignore is refused instead.
    #[test]
    fn unknown_settings_are_refused() {
        let more = RULES.replace("allow = ", "confidence-threshold = 0.9\nallow = ");
        assert!(Rules::parse(&more).is_err());
        let weaker = RULES.replace("unknown-git = \"deny\"", "unknown-git = \"allow\"");
        assert!(Rules::parse(&weaker).is_err());
    }

    /// Goal: the project's own file is understood.
    #[test]
    fn own_rules_parse() {
        let text = std::fs::read_to_string(workspace::root().join("deny.toml")).unwrap();
        let rules = Rules::parse(&text).unwrap();
        assert!(rules.banned.contains_key("openssl") && rules.single.contains("redb"));
    }
}
