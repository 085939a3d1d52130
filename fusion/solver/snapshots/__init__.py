"""What a run leaves behind and goes on from: snapshots, Caffe's and our own exact state."""
