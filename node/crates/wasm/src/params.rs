//! Parameters: what a module declares, and the text that a person gives for them. Pure.

use crate::abi::{Description, Parameter, ParameterKind, ParameterValue, Setting};
use crate::limits::{MESSAGE_BYTES_MAX, PARAMETERS_MAX};
use crate::upload::World;
use std::fmt;
use thiserror::Error;

/// What is wrong with a module's description of itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DescriptionError {
    /// More parameters than a module may have.
    #[error("{0} parameters, the limit is {PARAMETERS_MAX}")]
    TooManyParameters(usize),
    /// A name that cannot be given on a command line.
    #[error("{0:?} is not a name of a parameter: use a to z, 0 to 9, - and _")]
    Name(String),
    /// A name twice.
    #[error("parameter {0} is declared twice")]
    Twice(String),
    /// A default of another type.
    #[error("the default of parameter {0} is of another type")]
    Default(String),
    /// Text without end.
    #[error("a description longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// State in a world without.
    #[error("a state schema, but a {0} module has no state")]
    State(World),
}

/// Why settings do not fit a module.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// The module has no such parameter.
    #[error("the module has no parameter {name:?}; it has {known}")]
    Unknown {
        /// What was given.
        name: String,
        /// What there is.
        known: String,
    },
    /// Not a value of the parameter's type.
    #[error("parameter {name} takes {kind}, not {given:?}")]
    Type {
        /// Which parameter.
        name: String,
        /// What it takes.
        kind: ParameterKind,
        /// What was given.
        given: String,
    },
    /// A required one is missing.
    #[error("parameter {name} must be given: {about}")]
    Missing {
        /// Which parameter.
        name: String,
        /// What it is for.
        about: String,
    },
    /// The same parameter twice.
    #[error("parameter {0} is given twice")]
    Twice(String),
}

impl fmt::Display for ParameterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ParameterKind::Text => "text",
            ParameterKind::Integer => "an integer",
            ParameterKind::Number => "a number",
            ParameterKind::Boolean => "true or false",
        })
    }
}

impl fmt::Display for ParameterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParameterValue::Text(text) => f.write_str(text),
            ParameterValue::Integer(integer) => write!(f, "{integer}"),
            ParameterValue::Number(number) => write!(f, "{number}"),
            ParameterValue::Boolean(boolean) => write!(f, "{boolean}"),
        }
    }
}

impl ParameterValue {
    fn kind(&self) -> ParameterKind {
        match self {
            ParameterValue::Text(_) => ParameterKind::Text,
            ParameterValue::Integer(_) => ParameterKind::Integer,
            ParameterValue::Number(_) => ParameterKind::Number,
            ParameterValue::Boolean(_) => ParameterKind::Boolean,
        }
    }
}

impl Description {
    /// Turns what a person gave, `name=value` by `name=value`, into settings of the declared types,
    /// defaults included. In the order of the declarations.
    ///
    /// # Errors
    /// What does not fit first.
    pub fn settings(&self, given: &[(String, String)]) -> Result<Vec<Setting>, SettingsError> {
        for (at, (name, _)) in given.iter().enumerate() {
            if !self.parameters.iter().any(|parameter| parameter.name == *name) {
                let names: Vec<&str> =
                    self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
                let known = if names.is_empty() { "none".into() } else { names.join(", ") };
                return Err(SettingsError::Unknown { name: name.clone(), known });
            }
            if given[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(SettingsError::Twice(name.clone()));
            }
        }
        let mut settings = Vec::new();
        for parameter in &self.parameters {
            let text = given.iter().find(|(name, _)| *name == parameter.name);
            let value = match text {
                Some((_, text)) => Some(parse(parameter, text)?),
                None => parameter.default.clone(),
            };
            if value.is_none() && parameter.required {
                let (name, about) = (parameter.name.clone(), parameter.about.clone());
                return Err(SettingsError::Missing { name, about });
            }
            settings.extend(value.map(|value| Setting { name: parameter.name.clone(), value }));
        }
        Ok(settings)
    }
}

fn parse(parameter: &Parameter, text: &str) -> Result<ParameterValue, SettingsError> {
    let parsed = match parameter.kind {
        ParameterKind::Text => Some(ParameterValue::Text(text.to_owned())),
        ParameterKind::Integer => text.parse().ok().map(ParameterValue::Integer),
        ParameterKind::Number => {
            let number = text.parse().ok().filter(|number: &f64| number.is_finite());
            number.map(ParameterValue::Number)
        }
        ParameterKind::Boolean => text.parse().ok().map(ParameterValue::Boolean),
    };
    let (name, kind, given) = (parameter.name.clone(), parameter.kind, text.to_owned());
    parsed.ok_or(SettingsError::Type { name, kind, given })
}

/// Checks what a module says of itself.
pub(crate) fn check(description: &Description, world: World) -> Result<(), DescriptionError> {
    let parameters = &description.parameters;
    if parameters.len() > PARAMETERS_MAX {
        return Err(DescriptionError::TooManyParameters(parameters.len()));
    }
    let texts = parameters.iter().map(|parameter| parameter.about.len());
    if texts.chain([description.about.len()]).any(|bytes| bytes > MESSAGE_BYTES_MAX) {
        return Err(DescriptionError::TooLong);
    }
    for (at, parameter) in parameters.iter().enumerate() {
        let name = &parameter.name;
        let may = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(may) {
            return Err(DescriptionError::Name(name.chars().take(64).collect()));
        }
        if parameters[..at].iter().any(|earlier| earlier.name == *name) {
            return Err(DescriptionError::Twice(name.clone()));
        }
        if parameter.default.as_ref().is_some_and(|value| value.kind() != parameter.kind) {
            return Err(DescriptionError::Default(name.clone()));
        }
    }
    let stateful = matches!(world, World::Transform | World::Consumer);
    if description.state_schema != 0 && !stateful {
        return Err(DescriptionError::State(world));
    }
    Ok(())
}
