#include "runtime/io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <set>

#include "runtime/base/try.h"
#include "runtime/io/json.h"

namespace r1::rt {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are used in place");

constexpr std::uint64_t max_header_bytes = 100'000'000;  // the reference implementation's own limit

struct DtypeInfo {
  Dtype dtype;
  const char* name;
  std::size_t bytes;
};
constexpr std::array<DtypeInfo, 11> dtypes = {{{Dtype::f8_e4m3, "F8_E4M3", 1},
                                               {Dtype::bf16, "BF16", 2},
                                               {Dtype::f16, "F16", 2},
                                               {Dtype::f32, "F32", 4},
                                               {Dtype::f64, "F64", 8},
                                               {Dtype::u8, "U8", 1},
                                               {Dtype::i8, "I8", 1},
                                               {Dtype::i16, "I16", 2},
                                               {Dtype::i32, "I32", 4},
                                               {Dtype::i64, "I64", 8},
                                               {Dtype::boolean, "BOOL", 1}}};

Dtype dtype_from_name(std::string_view name) {
  for (const DtypeInfo& d : dtypes) {
    if (name == d.name) return d.dtype;
  }
  return Dtype::other;
}

// nlohmann keeps the last of two equal keys in silence; a tensor given twice is a mistake to be told. Counts the keys
// of the top level and of __metadata__ while parsing.
class DuplicateFinder : public nlohmann::json_sax<Json> {
 public:
  std::string duplicate;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return keys_.size() <= 64;
  }
  bool end_object() override {
    keys_.pop_back();
    return true;
  }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool key(string_t& key) override {
    if (keys_.back().insert(key).second) return true;
    duplicate = key;
    return false;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception&) override { return false; }

 private:
  std::vector<std::set<std::string>> keys_;
};

Error tensor_error(const std::string& path, const std::string& tensor, std::string problem) {
  return {ErrorCode::corrupt, std::move(problem), fmt::format("{}: tensor {}", path, tensor)};
}

Result<SafetensorsEntry> read_entry(const std::string& path, const std::string& name, const Json& json,
                                    std::uint64_t data_begin, std::uint64_t data_bytes) {
  SafetensorsEntry entry;
  entry.name = name;
  if (!json.is_object()) return tensor_error(path, name, "its header entry is not an object");
  const JsonObject object(json, fmt::format("{}: tensor {}", path, name));
  R1_TRY(const std::string dtype, object.string("dtype"));
  entry.dtype = dtype_from_name(dtype);

  const Json* shape = object.find("shape");
  if (shape == nullptr || !shape->is_array()) return object.error("shape", "must be an array");
  std::uint64_t n_elements = 1;
  for (const Json& dimension : *shape) {
    if (!dimension.is_number_unsigned()) return object.error("shape", "must hold integers that are not negative");
    const auto size = dimension.get<std::uint64_t>();
    if (__builtin_mul_overflow(n_elements, size, &n_elements)) return object.error("shape", "overflows 64 bits");
    entry.shape.push_back(size);
  }
  if (entry.shape.size() > 16) return object.error("shape", "has more than 16 dimensions");

  const Json* offsets = object.find("data_offsets");
  if (offsets == nullptr || !offsets->is_array() || offsets->size() != 2 || !(*offsets)[0].is_number_unsigned() ||
      !(*offsets)[1].is_number_unsigned()) {
    return object.error("data_offsets", "must be two integers that are not negative");
  }
  const auto begin = (*offsets)[0].get<std::uint64_t>(), end = (*offsets)[1].get<std::uint64_t>();
  if (begin > end || end > data_bytes) {
    return object.error(
        "data_offsets",
        fmt::format("{} … {} is outside the file's {} bytes of data; is the file truncated?", begin, end, data_bytes));
  }
  entry.offset_bytes = data_begin + begin;
  entry.length_bytes = end - begin;
  if (entry.dtype != Dtype::other) {
    std::uint64_t expected = 0;
    if (__builtin_mul_overflow(n_elements, dtype_bytes(entry.dtype), &expected) || expected != entry.length_bytes) {
      return object.error("data_offsets", fmt::format("hold {} bytes, but {} elements of {} need {}",
                                                      entry.length_bytes, n_elements, dtype, expected));
    }
  }
  return entry;
}

}  // namespace

std::size_t dtype_bytes(Dtype dtype) {
  for (const DtypeInfo& d : dtypes) {
    if (d.dtype == dtype) return d.bytes;
  }
  return 0;
}

const char* dtype_name(Dtype dtype) {
  for (const DtypeInfo& d : dtypes) {
    if (d.dtype == dtype) return d.name;
  }
  return "?";
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  SafetensorsFile result;
  R1_TRY(result.file_, MappedFile::open(path));
  const std::span<const std::byte> bytes = result.file_->bytes();
  if (bytes.size() < 8) {
    return Error{ErrorCode::corrupt, fmt::format("is {} bytes long, too short for a safetensors file", bytes.size()),
                 path};
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > max_header_bytes || header_bytes > bytes.size() - 8) {
    return Error{ErrorCode::corrupt,
                 fmt::format("byte 0: the header's length {} exceeds {}; not a safetensors file, or truncated",
                             header_bytes, std::min<std::uint64_t>(max_header_bytes, bytes.size() - 8)),
                 path};
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  DuplicateFinder finder;
  if (!Json::sax_parse(header.begin(), header.end(), &finder) && !finder.duplicate.empty()) {
    return Error{ErrorCode::corrupt, fmt::format("the header names {} twice", finder.duplicate), path};
  }
  R1_TRY(const Json json, parse_json(header, path + ": header"));
  if (!json.is_object()) return Error{ErrorCode::corrupt, "the header is not a JSON object", path};

  const std::uint64_t data_begin = 8 + header_bytes, data_bytes = bytes.size() - data_begin;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return Error{ErrorCode::corrupt, "__metadata__ is not an object", path};
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string())
          return Error{ErrorCode::corrupt, fmt::format("__metadata__: {}: is not a string", key), path};
        result.metadata_[key] = text.get<std::string>();
      }
      continue;
    }
    R1_TRY(SafetensorsEntry entry, read_entry(path, name, value, data_begin, data_bytes));
    result.entries_.push_back(std::move(entry));
  }
  std::sort(result.entries_.begin(), result.entries_.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.offset_bytes, a.length_bytes, a.name) < std::tie(b.offset_bytes, b.length_bytes, b.name);
  });
  for (std::size_t i = 0; i < result.entries_.size(); ++i) {
    const SafetensorsEntry& entry = result.entries_[i];
    if (i > 0) {
      const SafetensorsEntry& before = result.entries_[i - 1];
      if (entry.offset_bytes < before.offset_bytes + before.length_bytes) {
        return tensor_error(path, entry.name,
                            fmt::format("byte {}: overlaps tensor {}", entry.offset_bytes, before.name));
      }
    }
    result.by_name_[entry.name] = i;
  }
  return result;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &entries_[it->second];
}

std::span<const std::byte> SafetensorsFile::data(const SafetensorsEntry& entry) const {
  return file_->bytes().subspan(entry.offset_bytes, entry.length_bytes);
}

Result<void> write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                               const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.data.size()}}};
    offset += tensor.data.size();
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t header_bytes = text.size();
  std::vector<std::byte> bytes(8 + text.size() + offset);
  std::memcpy(bytes.data(), &header_bytes, 8);
  std::memcpy(bytes.data() + 8, text.data(), text.size());
  std::byte* out = bytes.data() + 8 + text.size();
  for (const NamedTensor& tensor : tensors) out = std::copy(tensor.data.begin(), tensor.data.end(), out);
  return write_file_atomically(path, bytes);
}

}  // namespace r1::rt
