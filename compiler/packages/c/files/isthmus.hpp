// isthmus.hpp - isthmus.h for C++17: objects that clean up after themselves, and exceptions.
//
//   isthmus::Model model("bundle/weights.bin");
//   isthmus::Session session(model, 2);
//   std::vector<isthmus::Tensor> outputs = session.run({isthmus::view(ids, {1, 7}), isthmus::view(mask, {1, 7})});
//
// A Model may be shared by any number of sessions on any threads; a Session runs one request at a time.
#ifndef ISTHMUS_HPP
#define ISTHMUS_HPP

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "isthmus.h"

namespace isthmus {

// What went wrong: the text of isthmus.h, which lists all problems, and its status.
class Error : public std::runtime_error {
 public:
  Error(int status, const char *text) : std::runtime_error(text), status_(status) {}
  int status() const noexcept { return status_; }

 private:
  int status_;
};

namespace detail {
enum { kText = 4096 };

inline void check(int status, const char *text) {
  if (status != ISTHMUS_OK) throw Error(status, text);
}

template <typename T> struct dtype;
template <> struct dtype<float> { static constexpr int32_t value = ISTHMUS_F32; };
template <> struct dtype<double> { static constexpr int32_t value = ISTHMUS_F64; };
template <> struct dtype<int8_t> { static constexpr int32_t value = ISTHMUS_I8; };
template <> struct dtype<int16_t> { static constexpr int32_t value = ISTHMUS_I16; };
template <> struct dtype<int32_t> { static constexpr int32_t value = ISTHMUS_I32; };
template <> struct dtype<int64_t> { static constexpr int32_t value = ISTHMUS_I64; };
template <> struct dtype<uint8_t> { static constexpr int32_t value = ISTHMUS_U8; };
template <> struct dtype<uint16_t> { static constexpr int32_t value = ISTHMUS_U16; };
template <> struct dtype<uint32_t> { static constexpr int32_t value = ISTHMUS_U32; };
template <> struct dtype<uint64_t> { static constexpr int32_t value = ISTHMUS_U64; };
template <> struct dtype<bool> { static constexpr int32_t value = ISTHMUS_BOOL; };
}  // namespace detail

// A tensor over memory of the caller's, which must outlive the run. Throws std::length_error above rank 8.
inline isthmus_tensor view(void *data, int32_t dtype, const std::vector<int64_t> &dims) {
  if (dims.size() > ISTHMUS_MAX_RANK) throw std::length_error("a tensor has at most 8 dims");
  isthmus_tensor tensor = {data, dtype, static_cast<int32_t>(dims.size()), {}};
  for (std::size_t i = 0; i < dims.size(); i++) tensor.dims[i] = dims[i];
  return tensor;
}

template <typename T> isthmus_tensor view(const T *data, const std::vector<int64_t> &dims) {
  return view(const_cast<T *>(data), detail::dtype<T>::value, dims);
}

template <typename T> isthmus_tensor view(const std::vector<T> &data, const std::vector<int64_t> &dims) {
  return view(data.data(), dims);
}

// An output, which owns its memory.
class Tensor {
 public:
  explicit Tensor(const isthmus_tensor &shape)
      : shape_(shape), bytes_(static_cast<std::size_t>(isthmus_bytes(&shape))) {
    shape_.data = bytes_.data();
  }
  Tensor(Tensor &&other) noexcept : shape_(other.shape_), bytes_(std::move(other.bytes_)) {}
  Tensor &operator=(Tensor &&) = delete;
  Tensor(const Tensor &) = delete;

  std::vector<int64_t> dims() const { return {shape_.dims, shape_.dims + shape_.rank}; }
  int32_t dtype() const noexcept { return shape_.dtype; }
  const isthmus_tensor &raw() const noexcept { return shape_; }
  // The elements. Throws std::invalid_argument when they are of another type.
  template <typename T> const T *data() const {
    if (detail::dtype<T>::value != shape_.dtype) throw std::invalid_argument("the tensor has another dtype");
    return reinterpret_cast<const T *>(bytes_.data());
  }

 private:
  isthmus_tensor shape_;
  std::vector<unsigned char> bytes_;
};

class Model {
 public:
  // `weights` is the path of weights.bin, or empty for a model without. Throws Error.
  explicit Model(const std::string &weights) {
    char text[detail::kText];
    detail::check(isthmus_open(weights.empty() ? nullptr : weights.c_str(), &model_, text, sizeof text), text);
  }
  ~Model() { isthmus_close(model_); }
  Model(const Model &) = delete;
  Model &operator=(const Model &) = delete;
  isthmus_model *get() const noexcept { return model_; }
  const char *name() const { return isthmus_model_name(model_); }
  const char *target() const { return isthmus_target_name(model_); }

 private:
  isthmus_model *model_ = nullptr;
};

class Session {
 public:
  // `threads` counts the calling one; 0: one for each core, at most 16. Throws Error.
  explicit Session(const Model &model, int threads = 0) : model_(model.get()) {
    char text[detail::kText];
    detail::check(isthmus_session_new(model_, threads, &session_, text, sizeof text), text);
  }
  ~Session() { isthmus_session_free(session_); }
  Session(const Session &) = delete;
  Session &operator=(const Session &) = delete;

  // The outputs for `inputs`, in the order of the entry point. Throws Error with all that does not fit.
  std::vector<Tensor> run(const std::vector<isthmus_tensor> &inputs, int32_t entry = 0) {
    char text[detail::kText];
    const int32_t wanted = isthmus_input_count(model_, entry), count = isthmus_output_count(model_, entry);
    if (wanted != static_cast<int32_t>(inputs.size())) throw Error(ISTHMUS_BAD_CALL, "wrong number of inputs");
    std::vector<isthmus_tensor> raw(static_cast<std::size_t>(count));
    detail::check(isthmus_shapes(session_, entry, inputs.data(), raw.data(), text, sizeof text), text);
    std::vector<Tensor> outputs(raw.begin(), raw.end());
    for (std::size_t i = 0; i < raw.size(); i++) raw[i] = outputs[i].raw();
    detail::check(isthmus_run(session_, entry, inputs.data(), raw.data(), text, sizeof text), text);
    return outputs;
  }

 private:
  isthmus_model *model_;
  isthmus_session *session_ = nullptr;
};

}  // namespace isthmus

#endif
