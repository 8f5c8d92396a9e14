//! PyTorch files, and their pickles alone: what is accepted lies within the bytes, in order.
#![no_main]

use cognate::model::{parse_pickle, parse_pytorch};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeSet;

fuzz_target!(|bytes: &[u8]| {
    match parse_pickle(bytes) {
        Ok(tensors) => {
            let names: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name).collect();
            assert_eq!(names.len(), tensors.len(), "a tensor stands twice");
            assert!(tensors.iter().all(|tensor| tensor.shape.len() == tensor.strides.len()));
        }
        Err(error) => assert_eq!(error.exit_code(), 2, "{error}"),
    }
    match parse_pytorch(bytes) {
        Ok(placed) => {
            for (spec, range) in &placed {
                assert_eq!(spec.bytes(), range.len(), "{} fills its range", spec.name);
                assert!(bytes.get(range.clone()).is_some(), "{} lies within the bytes", spec.name);
            }
            assert!(placed.is_sorted_by_key(|(_, range)| (range.start, range.end)));
        }
        Err(error) => assert_eq!(error.exit_code(), 2, "{error}"),
    }
});
