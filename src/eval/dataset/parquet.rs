//! Parquet, uncompressed or packed with Snappy, gzip or LZ4.

use super::{Document, Value};
use crate::error::{Error, Result};
use parquet::basic::Compression;
use parquet::data_type::Decimal;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use std::fs::File;
use std::path::Path;

/// Reads the rows of a file.
pub(super) fn rows(path: &Path) -> Result<Vec<Document>> {
    let file = File::open(path).map_err(|e| Error::io("open the data file", path, &e))?;
    let failed = |e: parquet::errors::ParquetError| {
        Error::input("the Parquet file cannot be read").file(path).fact("reason", e)
    };
    let reader = SerializedFileReader::new(file).map_err(failed)?;
    for group in reader.metadata().row_groups() {
        for column in group.columns() {
            let packed = column.compression();
            if !matches!(
                packed,
                Compression::UNCOMPRESSED
                    | Compression::SNAPPY
                    | Compression::GZIP(_)
                    | Compression::LZ4
                    | Compression::LZ4_RAW
            ) {
                return Err(Error::input("a Parquet file is packed in a way that is not read")
                    .file(path)
                    .key(column.column_descr().name())
                    .expected("Snappy, gzip, LZ4 or none", packed)
                    .hint("write it anew: datasets.Dataset.from_parquet(FILE).to_json(OTHER)"));
            }
        }
    }
    let rows = reader.get_row_iter(None).map_err(failed)?;
    rows.map(|row| row.map(|row| document(&row)).map_err(failed)).collect()
}

fn document(row: &Row) -> Document {
    Document(row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect())
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => Value::Int((*value).into()),
        Field::Short(value) => Value::Int((*value).into()),
        Field::Int(value) => Value::Int((*value).into()),
        Field::Long(value) => Value::Int(*value),
        Field::UByte(value) => Value::Int((*value).into()),
        Field::UShort(value) => Value::Int((*value).into()),
        Field::UInt(value) => Value::Int((*value).into()),
        Field::ULong(value) => {
            i64::try_from(*value).map_or(Value::Float(*value as f64), Value::Int)
        }
        Field::Float16(value) => Value::Float(value.to_f64()),
        Field::Float(value) => Value::Float((*value).into()),
        Field::Double(value) => Value::Float(*value),
        Field::Str(text) => Value::Text(text.clone()),
        Field::Bytes(bytes) => {
            Value::List(bytes.data().iter().map(|byte| Value::Int((*byte).into())).collect())
        }
        Field::Decimal(decimal) => decimal_value(decimal),
        Field::Date(days) => Value::Int((*days).into()),
        Field::TimeMillis(millis) => Value::Int((*millis).into()),
        Field::TimeMicros(micros) | Field::TimestampMicros(micros) => Value::Int(*micros),
        Field::TimestampMillis(millis) => Value::Int(*millis),
        Field::Group(row) => Value::Map(document(row).0),
        Field::ListInternal(list) => Value::List(list.elements().iter().map(value).collect()),
        Field::MapInternal(map) => {
            let entries = map.entries().iter();
            Value::Map(entries.map(|(key, item)| (value(key).display(), value(item))).collect())
        }
    }
}

/// A decimal as the nearest float: big-endian two's complement bytes over a power of ten.
fn decimal_value(decimal: &Decimal) -> Value {
    let bytes = decimal.data();
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let start = if negative { -1.0 } else { 0.0 };
    let whole = bytes.iter().fold(start, |sum, byte| sum * 256.0 + f64::from(*byte));
    Value::Float(whole / 10_f64.powi(decimal.scale()))
}
