// The whole operator surface of the package, and what Python imports to load it.
//
// maskrcnn_benchmark/ops repeats each schema beside its plain PyTorch implementation, which serves where this library
// has no kernel; a test compares the two. An operator whose name starts with an underscore belongs to the one of that
// name: it is its backward pass, or computes its gradient along with its result.
#include <Python.h>

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(maskrcnn_benchmark, m) {
  m.def(
      "deform_conv2d(Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, "
      "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, "
      "int groups, int offset_groups) -> Tensor");
  m.def(
      "_deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, "
      "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, "
      "int groups, int offset_groups, bool needs_input, bool needs_coordinates, bool needs_parameters) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  m.def("nms_keep_mask(Tensor boxes, Tensor? labels, Tensor? counts, float iou_threshold) -> Tensor");
  m.def("soft_nms(Tensor boxes, Tensor scores, float score_threshold, float sigma) -> (Tensor, Tensor, Tensor)");

  m.def("sigmoid_focal_loss(Tensor logits, Tensor labels, float gamma, float alpha) -> Tensor");
  m.def(
      "_sigmoid_focal_loss_backward(Tensor grad, Tensor logits, Tensor labels, float gamma, float alpha) -> Tensor");
  m.def(
      "token_sigmoid_focal_loss(Tensor logits, Tensor targets, Tensor? text_mask, float alpha, float gamma) "
      "-> Tensor");
  m.def(
      "_token_sigmoid_focal_loss_with_gradient(Tensor logits, Tensor targets, Tensor? text_mask, float alpha, "
      "float gamma) -> (Tensor, Tensor)");

  m.def(
      "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
      "int sampling_ratio, bool aligned) -> Tensor");
  m.def(
      "_roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
      "int sampling_ratio, bool aligned, int batch_size, int channels, int height, int width) -> Tensor");
}

// `import maskrcnn_benchmark._C` has nothing to do but to load this library.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&definition);
}
