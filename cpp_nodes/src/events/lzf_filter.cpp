// SPDX-License-Identifier: Apache-2.0
// The compression filter "lzf" (HDF5 filter 32000), which M3ED's files need and which only h5py brings: reading only.
//
// A compressed chunk is a row of instructions (the format of M. Lehmann's LibLZF): a byte c below 32 announces c + 1
// literal bytes; else c >> 5 is a length, 7 meaning that the next byte is added to it, and the low 5 bits of c with one
// more byte are a distance: length + 2 bytes are copied from distance + 1 bytes back.
#include <cstring>

#include "hdf5.hpp"

namespace aot_perception {

std::size_t lzf_decompress(const std::uint8_t* in, std::size_t n_in, std::uint8_t* out, std::size_t n_out) {
  std::size_t i = 0, n = 0;
  while (i < n_in) {
    const std::size_t control = in[i++];
    if (control < 32) {
      const std::size_t literals = control + 1;
      if (literals > n_in - i || literals > n_out - n) return 0;
      std::memcpy(out + n, in + i, literals);
      i += literals;
      n += literals;
      continue;
    }
    std::size_t length = control >> 5;
    if (length == 7) {
      if (i == n_in) return 0;
      length += in[i++];
    }
    length += 2;
    if (i == n_in) return 0;
    const std::size_t distance = ((control & 31) << 8) + in[i++] + 1;
    if (distance > n || length > n_out - n) return 0;
    for (std::size_t k = 0; k < length; ++k, ++n)
      out[n] = out[n - distance];  // may overlap: byte by byte
  }
  return n;
}

namespace {

constexpr H5Z_filter_t kLzf = 32000;

std::size_t filter(unsigned flags, std::size_t n_values, const unsigned values[], std::size_t n_bytes,
                   std::size_t* buffer_size, void** buffer) {
  // The third parameter is the size of a chunk, which every writer stores.
  if ((flags & H5Z_FLAG_REVERSE) == 0 || n_values < 3 || values[2] == 0) return 0;
  const std::size_t size = values[2];
  void* const out = H5allocate_memory(size, false);
  if (out == nullptr) return 0;
  const std::size_t n =
      lzf_decompress(static_cast<const std::uint8_t*>(*buffer), n_bytes, static_cast<std::uint8_t*>(out), size);
  if (n == 0) {
    H5free_memory(out);
    return 0;
  }
  H5free_memory(*buffer);
  *buffer = out;
  *buffer_size = size;
  return n;
}

}  // namespace

void register_lzf_filter() {
  if (H5Zfilter_avail(kLzf) > 0) return;
  const H5Z_class2_t description{H5Z_CLASS_T_VERS, kLzf, 0, 1, "lzf", nullptr, nullptr, filter};
  H5Zregister(&description);
}

}  // namespace aot_perception
