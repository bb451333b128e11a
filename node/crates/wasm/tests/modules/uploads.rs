//! What may be uploaded and what not, and that the errors say what to do.

use crate::support::{Wat, block_on, componentize, engine, module, root};
use bytes::Bytes;
use weir_wasm::abi::{ParameterKind, ParameterValue};
use weir_wasm::params::SettingsError;
use weir_wasm::{Compiler, Module, ModuleError, Upload, UploadError, World, limits};

fn refused(bytes: impl Into<Bytes>) -> String {
    Upload::of_file(bytes.into()).expect_err("not a module").to_string()
}

#[test]
fn files_that_are_no_modules() {
    assert!(refused(&b""[..]).contains("empty"));
    assert!(refused(&b"\x7fELF\x02"[..]).contains("give the .wasm file"));
    assert!(refused(&b"(module)"[..]).contains("text"));
    assert!(refused(&b"PK\x03\x04"[..]).contains("wasm32-unknown-unknown"));
    assert!(refused(&b"\0asm\x0d\0\x01\0\xff\xff"[..]).contains("not valid"));
    assert!(refused(vec![0; limits::MODULE_BYTES_MAX + 1]).contains("strip"));
    let core = wat::parse_str("(module (func (export \"run\")))").unwrap();
    assert!(refused(core).contains("no WIT"), "a module that no tool has made for us");
    let node_takes_components = Upload::of_component(wat::parse_str("(module)").unwrap().into());
    assert!(matches!(node_takes_components, Err(UploadError::NotWasm { .. })));
}

#[test]
fn components_of_no_world() {
    let empty = wat::parse_str("(component)").unwrap();
    assert!(refused(empty).contains("exports nothing"));
    let foreign = wat::parse_str(
        "(component (core module $m (func (export \"run\")))
           (core instance $i (instantiate $m))
           (func $run (canon lift (core func $i \"run\")))
           (instance $e (export \"run\" (func $run)))
           (export \"other:package/runner@1.0.0\" (instance $e)))",
    );
    assert!(refused(foreign.unwrap()).contains("other:package/runner@1.0.0"));
}

/// Goal: what a module may not have is named, with advice.
#[test]
fn imports_are_checked() {
    let component = |name: &str| {
        let exports = "(instance $e) (export \"weir:module/lifecycle@1.0.0\" (instance $e))
            (export \"weir:module/filtering@1.0.0\" (instance $e))";
        let import = format!("(import \"{name}\" (instance))");
        wat::parse_str(format!("(component {import} {exports})")).unwrap()
    };
    assert!(Upload::of_file(component("weir:module/log@1.0.0").into()).is_ok());
    let clock = refused(component("wasi:clocks/wall-clock@0.2.3"));
    assert!(clock.contains("wasi:clocks/wall-clock@0.2.3") && clock.contains("unknown-unknown"));
    assert!(refused(component("weir:module/state@1.0.0")).contains("another world"));
    assert!(refused(component("my:own/thing")).contains("only interfaces of weir:module"));
    for newer in ["weir:module/log@1.1.0", "weir:module/log@2.0.0", "weir:module/log"] {
        assert!(refused(component(newer)).contains("this node serves"), "{newer}");
    }
    assert!(Upload::of_file(component("weir:module/log@1.0.9").into()).is_ok());
}

/// Goal: what takes long to compile is refused before it is compiled.
#[test]
fn compile_bombs_are_refused() {
    let body = "(drop (i32.const 1000000))".repeat(limits::FUNCTION_BYTES_MAX / 4);
    let error = Wat { items: &format!("(func {body})"), ..Wat::default() }.upload().unwrap_err();
    assert!(matches!(error, UploadError::Complexity { what: "bytes in one function", .. }));
    let locals = format!("(func (local {}))", "i64 ".repeat(limits::LOCALS_MAX as usize + 1));
    let error = Wat { items: &locals, ..Wat::default() }.upload().unwrap_err();
    assert!(matches!(error, UploadError::Complexity { what: "locals in one function", .. }));
    let functions = "(func)".repeat(limits::FUNCTIONS_MAX + 1);
    let error = Wat { items: &functions, ..Wat::default() }.upload().unwrap_err();
    assert!(matches!(error, UploadError::Complexity { what: "functions", .. }));
}

/// Goal: features that would make two machines differ do not get in.
#[test]
fn threads_are_not_valid() {
    let shared = "(memory $shared 1 1 shared)";
    let error = Wat { items: shared, ..Wat::default() }.upload().unwrap_err();
    assert!(matches!(error, UploadError::Invalid { .. }), "{error}");
}

/// Goal: functions of other types than the world's are found at upload, not when records flow.
/// Method: the interface's name is right, its function is another.
#[test]
fn types_are_compared() {
    let component = wat::parse_str(
        "(component
           (core module $m (func (export \"run\")))
           (core instance $i (instantiate $m))
           (func $run (canon lift (core func $i \"run\")))
           (instance $l (export \"describe\" (func $run)) (export \"start\" (func $run)))
           (instance $f (export \"filter\" (func $run)))
           (export \"weir:module/lifecycle@1.0.0\" (instance $l))
           (export \"weir:module/filtering@1.0.0\" (instance $f)))",
    );
    let upload = Upload::of_file(component.unwrap().into()).unwrap();
    let prepared = block_on(Module::prepare(engine(), &upload, None, &Compiler::Here));
    assert!(matches!(prepared.err(), Some(ModuleError::Types { .. })));
}

/// Goal: random bytes, and modules with random bytes in them, are errors and nothing worse.
#[test]
fn damaged_modules() {
    let good = Wat::default().upload().unwrap().component;
    let mut state = 7u32;
    for _ in 0..3_000 {
        let mut bytes = good.to_vec();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let at = (state >> 8) as usize % bytes.len();
        match state % 3 {
            0 => bytes[at] ^= 1 << ((state >> 5) % 8),
            1 => bytes.truncate(at),
            _ => bytes[at] = 0xff,
        }
        let _ = Upload::of_component(bytes.into());
    }
}

/// Goal: each world of `wit/` is told apart.
#[test]
fn worlds_are_recognised() {
    assert_eq!(Wat::default().upload().unwrap().world, World::Filter);
    let transform = "weir:module/transforming@1.0.0#transform";
    let upload = Wat { export: transform, ..Wat::default() }.upload().unwrap();
    assert_eq!((upload.world, upload.migrates), (World::Transform, false));
    let check = "weir:module/checking@1.0.0#check";
    let upload = Wat { export: check, ..Wat::default() }.upload().unwrap();
    assert_eq!(upload.world, World::ProduceCheck);
    assert!(upload.was_core_module && upload.functions > 3);
    // A function that the world asks for and the module lacks.
    assert!(componentize(&Wat::default().text(), "transform").is_err());
    assert!(root().join("wit/worlds.wit").exists());
}

/// Goal: what a person gives for parameters is checked against what the module declares.
#[test]
fn parameters() {
    let upload = crate::support::example("unit-range");
    let module = block_on(module(&upload));
    let description = module.description();
    let settings = |given: &[(&str, &str)]| {
        let given: Vec<_> = given.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        description.settings(&given)
    };
    let field = description.parameters.iter().find(|p| p.name == "field").unwrap();
    assert!(field.required && field.kind == ParameterKind::Text && !field.about.is_empty());
    assert!(matches!(settings(&[]), Err(SettingsError::Missing { .. })));
    let unknown = settings(&[("field", "t"), ("filed", "t")]).unwrap_err().to_string();
    assert!(unknown.contains("filed") && unknown.contains("field"), "{unknown}");
    let wrong = settings(&[("field", "t"), ("min", "warm")]).unwrap_err().to_string();
    assert!(wrong.contains("min takes a number"), "{wrong}");
    let twice = settings(&[("field", "t"), ("field", "u")]);
    assert!(matches!(twice, Err(SettingsError::Twice(_))));
    let given = settings(&[("field", "t"), ("min", "-40")]).unwrap();
    let min = given.iter().find(|setting| setting.name == "min").unwrap();
    assert_eq!(min.value, ParameterValue::Number(-40.0));
}
