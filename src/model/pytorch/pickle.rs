//! A reader for the part of Python's pickle that a dictionary of tensors needs.
//!
//! Opcodes: CPython's `Lib/pickletools.py`. A pickle is a program for a stack machine; this one
//! knows no call but the few of [`CALLABLE`], and does not make even those. Values stand in
//! one list and refer to each other by number, so that nothing recurses and a value that is used
//! often takes no more room.

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// A pickle larger than this is refused; a tensor takes some 150 bytes.
const MAX_BYTES: usize = 64 << 20;
/// The values a pickle may make; a tensor takes some 10.
const MAX_VALUES: usize = 4 << 20;

/// The number of a value.
pub(super) type Id = u32;

/// What a pickle is made of.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// None, a truth value or a float: nothing that a tensor is made of.
    Other,
    Int(i64),
    Text(&'a str),
    /// The name of a class or function: module and name.
    Global(&'a str, &'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A persistent id: what torch knows how to find outside the pickle.
    Persistent(Id),
    /// What calling the first with the second would give.
    Call(Id, Id),
}

/// The calls that a state dict needs. Nothing is called: they are understood by name.
const CALLABLE: [(&str, &str); 4] = [
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
];

/// The stack machine.
#[derive(Default)]
pub(super) struct Machine<'a> {
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// The heights of the stack at the marks that are open.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Runs a pickle to its end; `known` says which names of classes may stand in it.
    pub(super) fn run(pickle: &'a [u8], known: fn(&str, &str) -> bool) -> Result<(Self, Id)> {
        if pickle.len() > MAX_BYTES {
            return Err(Error::input("the pickle is too large")
                .expected(format!("at most {MAX_BYTES} bytes"), pickle.len()));
        }
        let mut machine = Self::default();
        let mut rest = Bytes(pickle);
        loop {
            let at = pickle.len() - rest.0.len();
            let step = rest.take(1).and_then(|opcode| machine.step(opcode[0], &mut rest, known));
            match step.map_err(|e| e.fact("at byte", at))? {
                Some(top) => return Ok((machine, top)),
                None if machine.values.len() > MAX_VALUES => {
                    return Err(Error::input("the pickle holds too much for a state dict")
                        .expected(format!("at most {MAX_VALUES} values"), "more"));
                }
                None => {}
            }
        }
    }

    /// The value of this number.
    pub(super) fn value(&self, id: Id) -> &Value<'a> {
        self.values.get(id as usize).unwrap_or(&Value::Other)
    }

    /// Does what an opcode says; the value on top at the end.
    fn step(
        &mut self,
        opcode: u8,
        rest: &mut Bytes<'a>,
        known: fn(&str, &str) -> bool,
    ) -> Result<Option<Id>> {
        match opcode {
            // PROTO
            0x80 => match rest.take(1)?[0] {
                2..=5 => {}
                other => return Err(malformed().expected("protocol 2 to 5", other)),
            },
            // FRAME: how much to read at once.
            0x95 => _ = rest.take(8)?,
            b'(' => self.marks.push(self.stack.len()),
            // NONE, NEWTRUE, NEWFALSE
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            // BINFLOAT
            b'G' => {
                rest.take(8)?;
                self.push(Value::Other);
            }
            b'J' => self.push(Value::Int(i32::from_le_bytes(rest.array()?).into())),
            b'K' => self.push(Value::Int(rest.take(1)?[0].into())),
            b'M' => self.push(Value::Int(u16::from_le_bytes(rest.array()?).into())),
            0x8a => self.long1(rest)?,
            b'X' => {
                let length = u32::from_le_bytes(rest.array()?);
                self.text(rest.take(length as usize)?)?;
            }
            // SHORT_BINUNICODE
            0x8c => {
                let length = rest.take(1)?[0];
                self.text(rest.take(length.into())?)?;
            }
            b'c' => {
                let (module, name) = (rest.line()?, rest.line()?);
                self.global(module, name, known)?;
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.value(module), self.value(name)) {
                    (Value::Text(module), Value::Text(name)) => self.global(module, name, known)?,
                    _ => return Err(malformed()),
                }
            }
            b'q' => self.remember(rest.take(1)?[0].into())?,
            b'r' => self.remember(u32::from_le_bytes(rest.array()?))?,
            // MEMOIZE
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => self.recall(rest.take(1)?[0].into())?,
            b'j' => self.recall(u32::from_le_bytes(rest.array()?))?,
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85..=0x87 => {
                let first = self.stack.len().checked_sub(usize::from(opcode - 0x84));
                let first = first.filter(|first| *first >= self.floor()).ok_or_else(malformed)?;
                let items = self.stack.split_off(first);
                self.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            b']' => self.push(Value::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend(items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.insert(&items)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            b'R' => self.call()?,
            // BUILD: the attributes of an object. Those of an OrderedDict (`_metadata`) say nothing
            // about its tensors.
            b'b' => {
                self.pop()?;
                if !matches!(self.value(self.top()?), Value::Dict(_)) {
                    return Err(unsupported(
                        "the pickle gives attributes to something else than a dictionary",
                    )
                    .fact("opcode", "0x62 (BUILD)"));
                }
            }
            b'.' => return Ok(Some(self.pop()?)),
            other => {
                let name = UNSUPPORTED.iter().find(|(opcode, _)| *opcode == other);
                let name = name.map_or("no opcode of pickle", |(_, name)| name);
                return Err(unsupported(
                    "the pickle has an opcode that a state dict does not need",
                )
                .fact("opcode", format!("{other:#04x} ({name})")));
            }
        }
        Ok(None)
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
    }

    /// The height of the stack below which the innermost mark forbids to reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id> {
        let top = self.stack.get(self.floor()..).and_then(|items| items.last());
        top.copied().ok_or_else(malformed)
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(malformed)?;
        Ok(self.stack.split_off(mark))
    }

    fn text(&mut self, bytes: &'a [u8]) -> Result<()> {
        let text =
            std::str::from_utf8(bytes).map_err(|_| malformed().fact("reason", "no UTF-8"))?;
        self.push(Value::Text(text));
        Ok(())
    }

    /// LONG1: an integer of up to 255 bytes; of up to 8 here.
    fn long1(&mut self, rest: &mut Bytes<'a>) -> Result<()> {
        let length = rest.take(1)?[0];
        let bytes = rest.take(length.into())?;
        if bytes.len() > 8 {
            return Err(malformed().expected("an integer of at most 8 bytes", bytes.len()));
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn global(
        &mut self,
        module: &'a str,
        name: &'a str,
        known: fn(&str, &str) -> bool,
    ) -> Result<()> {
        if !CALLABLE.contains(&(module, name)) && !known(module, name) {
            return Err(unsupported("the pickle names code that a state dict does not need")
                .fact("global", format!("{module}.{name}")));
        }
        self.push(Value::Global(module, name));
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let id = self.memo.get(&key).ok_or_else(malformed)?;
        self.stack.push(*id);
        Ok(())
    }

    /// Adds to the list on top.
    fn extend(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        match self.values.get_mut(top as usize) {
            Some(Value::List(list)) => list.extend(items),
            _ => return Err(malformed()),
        }
        Ok(())
    }

    /// Adds keys and values in turn to the dictionary on top.
    fn insert(&mut self, items: &[Id]) -> Result<()> {
        let top = self.top()?;
        match (self.values.get_mut(top as usize), items.as_chunks::<2>()) {
            (Some(Value::Dict(dict)), (pairs, [])) => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }
            _ => return Err(malformed()),
        }
        Ok(())
    }

    /// REDUCE. A dictionary is made at once, since more may be put into it; tensors stay calls.
    fn call(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Tuple(items) = self.value(arguments) else { return Err(malformed()) };
        match self.value(callable) {
            Value::Global("collections", "OrderedDict") if items.is_empty() => {
                self.push(Value::Dict(Vec::new()));
            }
            Value::Global(module, name) if CALLABLE[1..].contains(&(module, name)) => {
                self.push(Value::Call(callable, arguments));
            }
            _ => {
                return Err(unsupported("the pickle calls something that a state dict does not")
                    .fact("opcode", "0x52 (REDUCE)"));
            }
        }
        Ok(())
    }
}

/// What is left of a pickle.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.first_chunk().copied().ok_or_else(truncated)
    }

    /// A line of text without its end; names are no longer than 256 bytes.
    fn line(&mut self) -> Result<&'a str> {
        let end = self.0.iter().take(256).position(|byte| *byte == b'\n').ok_or_else(truncated)?;
        let line = self.take(end)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| malformed().fact("reason", "no UTF-8"))
    }
}

fn truncated() -> Error {
    malformed().fact("reason", "it ends too early")
}

/// For pickles that no Python would write.
pub(super) fn malformed() -> Error {
    Error::input("the pickle is not valid").hint("the file is damaged; fetch it again")
}

/// For pickles of something else than tensors by name.
pub(super) fn unsupported(what: &'static str) -> Error {
    Error::input(what)
        .hint("nothing in a pickle is run; save the state dict alone, best as safetensors")
}

/// The names of the opcodes that are refused.
const UNSUPPORTED: [(u8, &str); 33] = [
    (b'0', "POP"),
    (b'1', "POP_MARK"),
    (b'2', "DUP"),
    (b'B', "BINBYTES"),
    (b'C', "SHORT_BINBYTES"),
    (b'F', "FLOAT"),
    (b'I', "INT"),
    (b'L', "LONG"),
    (b'P', "PERSID"),
    (b'S', "STRING"),
    (b'T', "BINSTRING"),
    (b'U', "SHORT_BINSTRING"),
    (b'V', "UNICODE"),
    (b'd', "DICT"),
    (b'g', "GET"),
    (b'i', "INST"),
    (b'l', "LIST"),
    (b'o', "OBJ"),
    (b'p', "PUT"),
    (0x81, "NEWOBJ"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (0x8b, "LONG4"),
    (0x8d, "BINUNICODE8"),
    (0x8e, "BINBYTES8"),
    (0x8f, "EMPTY_SET"),
    (0x90, "ADDITEMS"),
    (0x91, "FROZENSET"),
    (0x92, "NEWOBJ_EX"),
    (0x96, "BYTEARRAY8"),
    (0x97, "NEXT_BUFFER"),
    (0x98, "READONLY_BUFFER"),
];
