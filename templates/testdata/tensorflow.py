"""Ten steps of training with TensorFlow; what is wrong raises."""

import numpy as np
import tensorflow as tf

random = np.random.default_rng(1)
x = random.normal(size=(200, 2)).astype("float32")
y = 3 * x[:, 0] - x[:, 1] + 2

# What is fitted is known, so that a library that computes wrong is found.
w, b = tf.Variable([[0.0], [0.0]]), tf.Variable(0.0)


@tf.function
def step():
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((tf.squeeze(x @ w) + b - y) ** 2)
    for v, gradient in zip((w, b), tape.gradient(loss, (w, b))):
        v.assign_sub(0.3 * gradient)
    return loss


for _ in range(10):
    step()
print("tensorflow:", [round(float(v), 1) for v in (w[0, 0], w[1, 0], b)])

model = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(8, activation="relu"), tf.keras.layers.Dense(1)])
model.compile(optimizer=tf.keras.optimizers.Adam(0.05), loss="mse")
losses = model.fit(x, y, batch_size=200, epochs=10, verbose=0).history["loss"]
model.save("/tmp/model.keras")
again = tf.keras.models.load_model("/tmp/model.keras")
print("keras:", [len(losses), losses[-1] < losses[0], bool(np.allclose(again(x), model(x)))])
print("tensorflow sees", [d.device_type for d in tf.config.list_physical_devices()])
