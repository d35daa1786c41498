// SPDX-License-Identifier: Apache-2.0
// Cubic resize of 8-bit images to float32, as Python's cv2.resize does it on float32.
#pragma once

#include <opencv2/core/mat.hpp>

namespace aot_perception {

/// Keys' cubic convolution with a = -0.75 (OpenCV's), edges repeated, the image's outer edges kept; without smoothing
/// where the image shrinks, and without clipping where the kernel overshoots.
///
/// Written out because builds of OpenCV differ: those with IPP, as Python's wheel, compute the weights exactly, others
/// in float32 from pixel positions, which moves pixels by up to 0.006 of 255.
///
/// @param image  CV_8UC3, not empty.
/// @return CV_32FC3 of `size`.
cv::Mat resize_cubic(const cv::Mat& image, cv::Size size);

}  // namespace aot_perception
