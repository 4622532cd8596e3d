# The page in a container: docker build -t nearl-clip . && docker run --rm -p 127.0.0.1:7860:7860 -v nearl:/data nearl-clip
# With a GPU of NVIDIA: docker run --gpus all ...
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm

# Where pip finds torch. "": the usual index, whose builds bring CUDA and run on CPUs too, and take several gigabytes. An
# image for CPUs is a quarter as large: give the address that https://pytorch.org/get-started names for them.
ARG TORCH_INDEX=""

WORKDIR /app
COPY requirements.txt .
RUN if [ -n "$TORCH_INDEX" ]; then \
        grep -E '^(torch|torchvision)\b' requirements.txt > torch.txt && \
        pip install --no-cache-dir --index-url "$TORCH_INDEX" -r torch.txt; \
    fi && \
    pip install --no-cache-dir -r requirements.txt
COPY . .

RUN useradd --uid 1000 --create-home nearl && \
    install --directory --owner=nearl --group=nearl --mode=700 /data
USER 1000

# What outlives the container: visitors' workspaces, and models from the Hub.
ENV NEARL_HOST=0.0.0.0 \
    NEARL_PORT=7860 \
    NEARL_WORKSPACES=/data/workspaces \
    HF_HOME=/data/huggingface \
    PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=60s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['NEARL_PORT'], timeout=9)"]
STOPSIGNAL SIGINT
ENTRYPOINT ["python", "app.py"]
