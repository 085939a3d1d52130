"""Nets of the tests."""

from __future__ import annotations

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 2 dim: 3 dim: 3 } } }'

# conv is changed in place, and has two readers; so has the net's input
SMALL = f"""
name: "small" force_backward: true
{DATA}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 3 kernel_size: 2
    weight_filler {{ type: "xavier" }} bias_filler {{ value: 0.1 }} }} }}
layer {{ name: "elu" type: "ELU" bottom: "conv" top: "conv" }}
layer {{ name: "left" type: "InnerProduct" bottom: "conv" top: "left"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "right" type: "InnerProduct" bottom: "conv" top: "right"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "skip" type: "InnerProduct" bottom: "data" top: "skip"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "sum" type: "Eltwise" bottom: "left" bottom: "right" bottom: "skip" top: "sum" }}
layer {{ name: "prob" type: "Softmax" bottom: "sum" top: "prob" }}
"""

TRAINED = """
name: "trained"
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 5 } shape { dim: 4 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
layer { name: "low" type: "InnerProduct" bottom: "data" top: "low"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "low" top: "low" dropout_param { dropout_ratio: 0.5 } }
layer { name: "high" type: "InnerProduct" bottom: "low" top: "high"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "high" bottom: "label" top: "loss" loss_weight: 2 }
layer { name: "accuracy" type: "Accuracy" bottom: "high" bottom: "label" top: "accuracy" include { phase: TEST } }
"""
