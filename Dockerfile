# docker build -t fairtune .
# docker run --rm --gpus all --shm-size 2g \
#     -v "$PWD/data:/data:ro" -v fairtune-cache:/cache -v "$PWD/results:/results" \
#     fairtune search studies/quickstart.yaml
# The mounted results folder must be writable for user 10001 (or run with --user "$(id -u)").

# PyTorch's packages bring their own CUDA libraries; the base gives Python and tells the container
# runtime which driver is needed. For a machine without accelerator: --build-arg BASE=ubuntu:24.04
ARG BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04
FROM ${BASE}

# Options for pip, e.g. another index with a smaller build of PyTorch.
ARG PIP_ARGS=""

ENV DEBIAN_FRONTEND=noninteractive \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/venv/bin:$PATH

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv

# The libraries, gigabytes that seldom change, lie in a layer below the code that often does.
WORKDIR /opt/fairtune
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *(line for extra in ('medical', 'postgres', 'mysql', 'grpc', 'dashboard') for line in p['optional-dependencies'][extra]), sep='\n')" > /tmp/requirements.txt \
    && pip install ${PIP_ARGS} --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY README.md LICENSE NOTICE ./
COPY configs configs
COPY studies studies
COPY fairtune fairtune
RUN pip install ${PIP_ARGS} --no-deps .

RUN useradd --create-home --uid 10001 fairtune \
    && mkdir /data /cache /results \
    && chown fairtune:fairtune /cache /results
ENV FAIRTUNE_DATA=/data \
    FAIRTUNE_CACHE=/cache \
    FAIRTUNE_OUT=/results
USER fairtune
VOLUME ["/cache", "/results"]

ENTRYPOINT ["fairtune"]
CMD ["--help"]
