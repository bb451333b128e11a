//! Parameters that a deployment gives, with types.

use crate::bindings::types::{Description, Parameter, ParameterKind, ParameterValue, Setting};
use crate::error::{Error, Result};
use crate::record::Columns;

/// What a deployment is told. Made by [`params!`](crate::params!), or `()` for none.
pub trait Params: Sized {
    /// What can be given.
    fn declared() -> Vec<Declared>;

    /// Reads what was given.
    ///
    /// # Errors
    /// If a parameter is missing or of another type, which the node has checked before.
    fn read(given: &mut dyn FnMut(&str) -> Option<Value>) -> Result<Self>;
}

/// One parameter as it is declared.
pub struct Declared(Parameter);

impl Declared {
    /// A parameter of type `T`. For the macro.
    #[doc(hidden)]
    pub fn of<T: ParamType>(name: &str, about: &str, default: Option<T>) -> Declared {
        let default = default.and_then(ParamType::into_value).map(|value| value.0);
        Declared(Parameter {
            name: name.replace('_', "-"),
            kind: T::KIND,
            required: default.is_none() && !T::OPTIONAL,
            default,
            about: about.trim().to_owned(),
        })
    }
}

/// The value of a parameter.
pub struct Value(ParameterValue);

/// A type that parameters can have: `String`, `bool`, `f64`, integers, and `Option` of these.
pub trait ParamType: Sized {
    #[doc(hidden)]
    const KIND: ParameterKind;
    #[doc(hidden)]
    const OPTIONAL: bool = false;
    #[doc(hidden)]
    fn from_value(value: Option<Value>) -> Option<Self>;
    #[doc(hidden)]
    fn into_value(self) -> Option<Value>;
}

macro_rules! param_type {
    ($type:ty, $kind:ident, $variant:ident) => {
        impl ParamType for $type {
            const KIND: ParameterKind = ParameterKind::$kind;

            fn from_value(value: Option<Value>) -> Option<Self> {
                match value?.0 {
                    ParameterValue::$variant(value) => value.try_into().ok(),
                    _ => None,
                }
            }

            fn into_value(self) -> Option<Value> {
                Some(Value(ParameterValue::$variant(self.try_into().ok()?)))
            }
        }
    };
}

param_type!(String, Text, Text);
param_type!(f64, Number, Number);
param_type!(bool, Boolean, Boolean);
param_type!(i64, Integer, Integer);
param_type!(i32, Integer, Integer);
param_type!(u64, Integer, Integer);
param_type!(u32, Integer, Integer);
param_type!(usize, Integer, Integer);

impl<T: ParamType> ParamType for Option<T> {
    const KIND: ParameterKind = T::KIND;
    const OPTIONAL: bool = true;

    fn from_value(value: Option<Value>) -> Option<Self> {
        match value {
            None => Some(None),
            value => T::from_value(value).map(Some),
        }
    }

    fn into_value(self) -> Option<Value> {
        self.and_then(T::into_value)
    }
}

impl Params for () {
    fn declared() -> Vec<Declared> {
        Vec::new()
    }

    fn read(_given: &mut dyn FnMut(&str) -> Option<Value>) -> Result<()> {
        Ok(())
    }
}

/// What a module says of itself. For the macros.
pub fn describe<P: Params>(about: &str, columns: Columns, state_schema: u32) -> Description {
    Description {
        about: about.to_owned(),
        columns: columns.flags(),
        parameters: P::declared().into_iter().map(|declared| declared.0).collect(),
        state_schema,
    }
}

/// Reads the settings of a deployment. For the macros.
pub fn read<P: Params>(mut settings: Vec<Setting>) -> Result<P> {
    P::read(&mut |name| {
        let at = settings.iter().position(|setting| setting.name == name)?;
        Some(Value(settings.swap_remove(at).value))
    })
}

/// Reads one parameter. For the macro.
#[doc(hidden)]
pub fn one<T: ParamType>(name: &str, given: &mut dyn FnMut(&str) -> Option<Value>) -> Result<T> {
    let name = name.replace('_', "-");
    T::from_value(given(&name))
        .ok_or_else(|| Error::msg(format_args!("parameter {name} is missing or out of range")))
}

/// Declares the parameters of a module: a struct, the comments of whose fields are shown to whoever
/// deploys it. A field with a default need not be given; neither need one of type `Option`. On
/// command lines, `max_speed` is `max-speed`.
///
/// ```ignore
/// weir_guest::params! {
///     /// What this deployment is told.
///     pub struct Params {
///         /// Unit of the speeds.
///         unit: String = "km/h".into(),
///         /// Drop positions that need a higher speed than this.
///         max_speed: f64,
///         /// Only this device.
///         device: Option<String>,
///     }
/// }
/// ```
#[macro_export]
macro_rules! params {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $about:literal])*
                $field:ident : $type:ty $(= $default:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $(
                $(#[doc = $about])*
                pub $field: $type,
            )*
        }

        impl $crate::Params for $name {
            fn declared() -> Vec<$crate::glue::Declared> {
                vec![$(
                    $crate::glue::Declared::of::<$type>(
                        stringify!($field),
                        concat!($($about),*),
                        $crate::__default!($type $(, $default)?),
                    )
                ),*]
            }

            fn read(
                given: &mut dyn FnMut(&str) -> Option<$crate::Value>,
            ) -> $crate::Result<Self> {
                Ok($name { $($field: $crate::glue::one(stringify!($field), given)?),* })
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __default {
    ($type:ty) => {
        None
    };
    ($type:ty, $default:expr) => {
        Some::<$type>($default)
    };
}
