# docker build -t caffe-fusion .       with CUDA on x86-64: torch from the default package index; run it with --gpus all
# docker build -t caffe-fusion --build-arg PIP_EXTRA_INDEX_URL=URL .     for CPUs: with PyTorch's index of CPU wheels
# docker run --rm --user "$(id -u)" --volume "$PWD:/data" caffe-fusion fusion-show net.prototxt
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL
COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt "/source[all]" && rm -r /source
WORKDIR /data
CMD ["fusion-show", "--help"]
