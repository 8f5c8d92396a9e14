//! Foreign records of a model's origin: front matter, mergekit configs, manifests. What is accepted is
//! bounded, and can be traced and printed in every format.
#![no_main]

use cognate::lineage::declared::{parse_card, parse_manifest, parse_mergekit, recipe_in_card};
use cognate::lineage::trace::{Format, Options, trace};
use libfuzzer_sys::fuzz_target;

/// Short, and on one line.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 500 && !text.chars().any(char::is_control)
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    match parse_card(&text) {
        Ok((card, _)) => {
            let texts = [&card.license, &card.license_name, &card.license_link];
            assert!(texts.into_iter().flatten().all(|text| is_name(text)));
            assert!(card.base_model.iter().chain(&card.datasets).all(|name| is_name(name)));
            if let Some(parents) = recipe_in_card(&text, &card) {
                assert!(!parents.models.is_empty());
            }
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
    if let Ok(parents) = parse_mergekit(&text) {
        assert!(!parents.models.is_empty() && parents.models.len() <= 1000);
        assert!(parents.models.iter().all(|name| is_name(name)));
    }
    if let Ok(read) = parse_manifest(bytes) {
        assert!(read.short.get("ancestors").is_none() && read.short.get("routing").is_none());
        // Paths in it must lead nowhere.
        if !text.contains('/') && !text.contains('\\') {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("lineage.json"), bytes).expect("a file");
            let path = folder.path().to_str().expect("a path in UTF-8");
            let found = trace(path, &Options::default()).expect("what was read can be traced");
            for format in [Format::Text, Format::Json, Format::Mermaid, Format::Dot, Format::Html] {
                let printed = found.print(format);
                assert!(!printed.contains('\u{1b}') || format == Format::Json);
            }
        }
    }
});
