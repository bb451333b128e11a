//! The module that checks what is produced to a topic, on the command line.

use super::deployment::params;
use super::module::parse_param;
use crate::exit::Failure;
use std::collections::BTreeMap;
use weir_core::deploy::Version;
use weir_core::module::name::ModuleRef;
use weir_core::topic::TopicConfig;

/// What checks a topic; part of a topic's settings.
#[derive(Debug, clap::Args)]
pub struct OnProduceArgs {
    /// A module that checks or rewrites what is produced before it is stored: one bad record and
    /// the producer's batch is refused, with the reasons
    #[arg(long, value_name = "NAME@VERSION")]
    on_produce: Option<ModuleRef>,
    /// A parameter of that module, NAME=VALUE; NAME=@FILE reads the value from a file
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_param, requires = "on_produce")]
    on_produce_param: Vec<(String, String)>,
    /// Store what is produced as it is, without a module
    #[arg(long, conflicts_with = "on_produce")]
    no_on_produce: bool,
}

impl OnProduceArgs {
    /// What is to be: `None` to leave it, `Some(None)` for no check.
    ///
    /// # Errors
    /// A parameter's file cannot be read.
    pub fn change(&self) -> Result<Option<Option<Version>>, Failure> {
        let Some(module) = self.on_produce.clone() else {
            return Ok(self.no_on_produce.then_some(None));
        };
        let params = params(self.on_produce_param.clone())?;
        Ok(Some(Some(Version { module, params })))
    }
}

/// Another version of the same module keeps its parameters, unless some were given.
pub fn keep_params(wanted: &mut Option<Option<Version>>, known: &TopicConfig) {
    let same = |wanted: &Version, known: &Version| wanted.module.name == known.module.name;
    if let (Some(Some(wanted)), Some(known)) = (wanted, &known.on_produce)
        && wanted.params.is_empty()
        && same(wanted, known)
    {
        wanted.params = known.params.clone();
    }
}

/// For a person: the module and its parameters.
pub fn shown(version: Option<&Version>) -> String {
    let Some(Version { module, params }) = version else { return "not checked".to_owned() };
    match params.is_empty() {
        true => module.to_string(),
        false => format!("{module} ({})", shown_params(params)),
    }
}

fn shown_params(params: &BTreeMap<String, String>) -> String {
    let each = params.iter().map(|(name, value)| format!("{name}={value}"));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        check: OnProduceArgs,
    }

    fn change(arguments: &[&str]) -> Option<Option<Version>> {
        Line::try_parse_from(["x"].iter().chain(arguments)).unwrap().check.change().unwrap()
    }

    /// Goal: absent, set and taken away are three things, and a newer version keeps parameters
    /// unless some are given.
    #[test]
    fn changes() {
        assert_eq!(change(&[]), None);
        assert_eq!(change(&["--no-on-produce"]), Some(None));
        let first = change(&["--on-produce=g@1.0.0", "--on-produce-param=max=9"]);
        let known = TopicConfig { on_produce: first.clone().unwrap(), ..TopicConfig::default() };
        assert_eq!(shown(known.on_produce.as_ref()), "g@1.0.0 (max=9)");
        for (arguments, becomes) in [
            (&["--on-produce=g@1.1.0"][..], "g@1.1.0 (max=9)"),
            (&["--on-produce=g@1.1.0", "--on-produce-param=min=1"], "g@1.1.0 (min=1)"),
            (&["--on-produce=h@1.1.0"], "h@1.1.0"),
            (&["--no-on-produce"], "not checked"),
        ] {
            let mut wanted = change(arguments);
            keep_params(&mut wanted, &known);
            assert_eq!(shown(wanted.unwrap().as_ref()), becomes);
        }
        for wrong in [
            &["--on-produce-param=max=9"][..],
            &["--on-produce=g@1.0.0", "--no-on-produce"],
            &["--on-produce=g"],
        ] {
            assert!(Line::try_parse_from(["x"].iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
