//! From the values of a pickle to tensors: what `torch._utils._rebuild_tensor_v2` and its like
//! would be called with.

use super::pickle::{Id, Machine, Value, malformed, unsupported};
use crate::error::{Error, Result};
use safetensors::Dtype;
use std::collections::BTreeSet;

/// A tensor as a pickle of PyTorch describes it. Nothing about its bytes has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickledTensor<'a> {
    /// Its key in the state dict.
    pub name: &'a str,
    /// Its dtype.
    pub dtype: Dtype,
    /// The key of its storage.
    pub storage: &'a str,
    /// Where in the storage it starts, in elements.
    pub offset: usize,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// For each dimension, the step from one index to the next, in elements.
    pub strides: Vec<usize>,
}

/// The most dimensions a tensor of PyTorch can have.
const MAX_RANK: usize = 64;
/// A longer key of a storage is refused; they are numbers.
const MAX_KEY: usize = 64;

/// Classes of storages with a dtype of their own (`torch.FloatStorage`).
const STORAGES: [(&str, Dtype); 10] = [
    ("FloatStorage", Dtype::F32),
    ("HalfStorage", Dtype::F16),
    ("BFloat16Storage", Dtype::BF16),
    ("DoubleStorage", Dtype::F64),
    ("CharStorage", Dtype::I8),
    ("ByteStorage", Dtype::U8),
    ("ShortStorage", Dtype::I16),
    ("IntStorage", Dtype::I32),
    ("LongStorage", Dtype::I64),
    ("BoolStorage", Dtype::BOOL),
];

/// The class of storages without a dtype; the tensor then says what it is.
const UNTYPED: (&str, &str) = ("torch.storage", "UntypedStorage");

/// Dtypes that have no storage class (`torch.uint16`).
const DTYPES: [(&str, Dtype); 5] = [
    ("uint16", Dtype::U16),
    ("uint32", Dtype::U32),
    ("uint64", Dtype::U64),
    ("float8_e4m3fn", Dtype::F8_E4M3),
    ("float8_e5m2", Dtype::F8_E5M2),
];

/// Reads the pickle of a state dict (`data.pkl` of a `torch.save` file): names and tensors in
/// the order of the dictionary. Nothing in it is run.
///
/// # Errors
/// It is no pickle, or one of something else than tensors by name; the opcode, global or key that
/// does not belong there is named.
pub fn parse_pickle(pickle: &[u8]) -> Result<Vec<PickledTensor<'_>>> {
    let (machine, top) = Machine::run(pickle, known)?;
    let Value::Dict(entries) = machine.value(top) else {
        return Err(unsupported("the PyTorch file does not hold a state dict")
            .expected("a dictionary of tensors", kind(machine.value(top))));
    };
    let mut seen = BTreeSet::new();
    let tensors = entries.iter().map(|(key, value)| {
        let Value::Text(name) = *machine.value(*key) else {
            return Err(unsupported("a key of the state dict is no text")
                .expected("a name", kind(machine.value(*key))));
        };
        if !seen.insert(name) {
            return Err(Error::input("the PyTorch file names a tensor twice").tensor(name));
        }
        tensor(&machine, name, *value).map_err(|e| e.tensor(name))
    });
    tensors.collect()
}

/// Classes and dtypes that may be named.
fn known(module: &str, name: &str) -> bool {
    let listed = |list: &[(&str, Dtype)]| list.iter().any(|(listed, _)| *listed == name);
    (module, name) == UNTYPED || module == "torch" && (listed(&STORAGES) || listed(&DTYPES))
}

fn tensor<'a>(machine: &Machine<'a>, name: &'a str, id: Id) -> Result<PickledTensor<'a>> {
    let Value::Call(callable, arguments) = machine.value(id) else {
        return Err(unsupported("an entry of the state dict is no tensor")
            .expected("a tensor", kind(machine.value(id))));
    };
    let (Value::Global(_, callable), Value::Tuple(arguments)) =
        (machine.value(*callable), machine.value(*arguments))
    else {
        return Err(malformed());
    };
    match (*callable, &arguments[..]) {
        // The data, whether it needs a gradient, hooks. A parameter's data is a tensor.
        ("_rebuild_parameter", [data, ..]) => {
            let inner = machine.value(*data);
            if let Value::Call(callable, _) = inner
                && matches!(machine.value(*callable), Value::Global(_, "_rebuild_parameter"))
            {
                return Err(malformed());
            }
            tensor(machine, name, *data)
        }
        // Storage, offset, shape, strides, whether it needs a gradient, hooks, and metadata or, in
        // the third version, the dtype.
        ("_rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
            rebuild(machine, name, [*storage, *offset, *shape, *strides], None)
        }
        ("_rebuild_tensor_v3", [storage, offset, shape, strides, _, _, dtype, ..]) => {
            rebuild(machine, name, [*storage, *offset, *shape, *strides], Some(*dtype))
        }
        _ => Err(malformed()),
    }
}

fn rebuild<'a>(
    machine: &Machine<'a>,
    name: &'a str,
    [storage, offset, shape, strides]: [Id; 4],
    dtype: Option<Id>,
) -> Result<PickledTensor<'a>> {
    let (own, storage) = stored(machine, storage)?;
    let given = dtype.and_then(|id| match machine.value(id) {
        Value::Global("torch", dtype) => DTYPES.iter().find(|(known, _)| known == dtype),
        _ => None,
    });
    let dtype = own.or(given.map(|(_, dtype)| *dtype));
    let dtype = dtype.ok_or_else(|| unsupported("a tensor of the PyTorch file has no dtype"))?;
    let number = |id: &Id| match machine.value(*id) {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    };
    let numbers = |id: Id| match machine.value(id) {
        // A long tuple could be shared by many tensors, each of which would copy it.
        Value::Tuple(items) if items.len() <= MAX_RANK => {
            items.iter().map(number).collect::<Option<Vec<usize>>>()
        }
        _ => None,
    };
    match (number(&offset), numbers(shape), numbers(strides)) {
        (Some(offset), Some(shape), Some(strides)) if shape.len() == strides.len() => {
            Ok(PickledTensor { name, dtype, storage, offset, shape, strides })
        }
        _ => Err(Error::input(
            "a tensor of the PyTorch file has no proper offset, shape and strides",
        )),
    }
}

/// The dtype (where it has one) and the key of a storage: `("storage", class, key, device, size)`.
fn stored<'a>(machine: &Machine<'a>, id: Id) -> Result<(Option<Dtype>, &'a str)> {
    let Value::Persistent(id) = machine.value(id) else { return Err(malformed()) };
    let Value::Tuple(parts) = machine.value(*id) else { return Err(malformed()) };
    let parts: Vec<&Value<'a>> = parts.iter().map(|part| machine.value(*part)).collect();
    match parts[..] {
        [Value::Text("storage"), Value::Global(module, class), Value::Text(key), ..]
            if key.len() <= MAX_KEY =>
        {
            let dtype = STORAGES.iter().find(|(name, _)| name == class);
            if dtype.is_none() && (*module, *class) != UNTYPED {
                return Err(malformed());
            }
            Ok((dtype.map(|(_, dtype)| *dtype), key))
        }
        _ => Err(malformed()),
    }
}

/// What to call a value in a message.
fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::Other => "None, a truth value or a number",
        Value::Int(_) => "an integer",
        Value::Text(_) => "a text",
        Value::Global(..) => "a class",
        Value::Tuple(_) => "a tuple",
        Value::List(_) => "a list",
        Value::Dict(_) => "a dictionary",
        Value::Persistent(_) => "a storage",
        Value::Call(..) => "a tensor",
    }
}
