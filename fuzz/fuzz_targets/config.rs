//! `config.json`: what is accepted is a JSON object that can be written.
#![no_main]

use cognate::model::parse_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match parse_config(bytes) {
        Ok(map) => {
            let text = serde_json::Value::Object(map.clone()).to_string();
            let again = parse_config(text.as_bytes()).expect("what was read can be read again");
            assert_eq!(again, map);
        }
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(!error.to_string().is_empty());
        }
    }
});
