# docker build -t csa .                                        processor
# docker build -t csa --build-arg TORCH=cu128 .                NVIDIA (pytorch.org lists which there are); docker run --gpus all ...
# docker run --rm -u "$(id -u)" -v "$PWD":/here csa run        data in ./data, records in ./outputs
FROM python:3.11-slim
ARG TORCH=cpu
ARG EXTRAS=mlflow,report
WORKDIR /opt/csa
COPY . .
RUN pip install --no-cache-dir --extra-index-url "https://download.pytorch.org/whl/$TORCH" ".[$EXTRAS]" -c constraints.txt
ENV CSA_DATA=/here/data HOME=/tmp
WORKDIR /here
ENTRYPOINT ["csa"]
CMD ["--help"]
